"""`fedjax-llm frontier`."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from .. import studies
from ..runs import RunConfig
from ..runs.registries import load_plugins
from ..studies import Study, run_study
from .output import keep_programs
from .study import show

QUICK = RunConfig(rounds=6, clients=16)
"""The defaults of `frontier --quick`."""


def frontier_from(base: RunConfig) -> Callable[..., None]:
    """The command `frontier`, whose runs are `base` unless flags say otherwise."""

    def frontier(
        run: RunConfig = base,
        codecs: tuple[str, ...] = (),
        seeds: tuple[int, ...] = (),
        quick: bool = False,
        target: float | None = None,
        costs: tuple[str, ...] = ("uplink",),
        together: bool = False,
        compilation_cache: Path | None = None,
        plugin: tuple[str, ...] = (),
        out: Path = Path("runs/frontier"),
    ) -> None:
        """Compare uplink codecs: results.jsonl and frontier.png in a folder, and with a link
        seconds.png.

        Args:
            run: What the runs have in common.
            codecs: Uplink codecs to compare. Default: eight codecs.
            seeds: Seeds to repeat each codec with. Default: --seed.
            quick: Six codecs for six rounds of sixteen clients, unless other flags say otherwise.
            target: Loss, in nats, to which the cost is reported too. Needs --evaluate-every.
            costs: What to draw loss against: uplink, downlink, both, seconds. Simulated seconds
                are drawn wherever there is a link.
            together: Run the seeds of a codec as one program: equal to rounding, and faster where
                one run does not fill the device, for the memory of all.
            compilation_cache: Folder in which compiled programs are kept for later commands, at
                most 1 GiB. Default: fedjax-llm/programs in the user's cache folder; `off` keeps
                none.
            plugin: Modules that register codecs, methods or data of your own.
            out: Folder for the results; runs whose row is already there are not run again.

        """
        load_plugins(plugin)
        keep_programs(compilation_cache)
        codecs = codecs or (studies.QUICK_CODECS if quick else studies.CODECS)
        found = Study(
            [dataclasses.replace(run, uplink=codec) for codec in codecs],
            seeds=seeds or (run.seed,),
            target=target,
            costs=costs,
        )
        show(found, run_study(found, out=out, together=together), out)

    return frontier
