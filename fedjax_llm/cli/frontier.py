"""`fedjax-llm frontier`."""

from collections.abc import Callable
from pathlib import Path

from ..runs import RunConfig, locked
from ..studies import CODECS, QUICK_CODECS, SECONDS, configurations, cost_of, draw, sweep, table
from .output import failures, keep_programs, print_table, results_folder

QUICK = RunConfig(rounds=6, clients=16)
"""What `frontier --quick` starts from."""


def frontier_from(common: RunConfig) -> Callable[..., None]:
    """The command `frontier`, whose runs have `common` in common unless flags say otherwise."""

    def frontier(
        run: RunConfig = common,
        codecs: tuple[str, ...] = (),
        seeds: tuple[int, ...] = (),
        quick: bool = False,
        together: bool = False,
        compilation_cache: Path | None = None,
        out: Path = Path("runs/frontier"),
    ) -> None:
        """Compare uplink codecs: results.jsonl and frontier.png in a folder, and with a link
        seconds.png.

        Args:
            run: What the runs have in common.
            codecs: Uplink codecs to compare; a default set unless given.
            seeds: Seeds to repeat each codec with; --seed unless given.
            quick: Six codecs for six rounds of sixteen clients, unless other flags say otherwise.
            together: Run the seeds of a codec as one program: the same to rounding, and faster
                where one run does not fill the device, for the memory of all.
            compilation_cache: Folder in which compiled programs are kept for later commands.
            out: Folder for the results; runs whose row is there already are not run again.

        """
        keep_programs(compilation_cache)
        codecs = codecs or (QUICK_CODECS if quick else CODECS)
        configs = configurations(run, codecs, seeds or (run.seed,))
        with locked(results_folder(out)):
            rows = list(sweep(configs, out / "results.jsonl", together=together))
        pictures = [out / "frontier.png"]
        draw(rows, pictures[0])
        if cost_of(rows) is SECONDS:
            pictures.append(out / "seconds.png")
            draw(rows, pictures[1], SECONDS)
        files = "  ".join(map(str, [out / "results.jsonl", *pictures]))
        print_table(table(rows), *failures(rows), files)

    return frontier
