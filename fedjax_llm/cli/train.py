"""`fedjax-llm train`."""

from pathlib import Path

from ..runs import RunConfig
from ..runs.registries import load_plugins
from ..runs.stopping import stop_signals
from ..runs.training import train_until_stopped
from ..studies import table
from .output import failures, keep_programs, nats, print_table


def train(
    run: RunConfig = RunConfig(),
    baselines: bool = False,
    cache: Path | None = None,
    out: Path = Path("runs/train"),
    resume: bool = False,
    save_base: bool = False,
    track: tuple[str, ...] = (),
    checkpoint_every: int = 10,
    compilation_cache: Path | None = None,
    plugin: tuple[str, ...] = (),
) -> None:
    """Train once: rounds.jsonl, rounds.csv, summary.json, checkpoints, and adapter/ or model/ in a
    folder, or one for each client where clients have models of their own.

    Args:
        run: The run.
        baselines: Also measure the untrained model, each client alone, and one model on all data.
        cache: Folder in which the tokens of a pretrained model's tokenizer are kept for later runs.
        out: Folder for the results; one that holds a run is refused without --resume.
        resume: Continue the run in the folder, to the same bits as if it had never stopped; starts
            a run where there is none.
        save_base: Also write the frozen base of an adapter to base/, for peft to open: needed for
            smollm2 and .gguf files. The base of a fresh decoder is always written.
        track: Where the numbers of the rounds' rows and the summary also go: tensorboard, wandb
            or trackio, such as "wandb(project='codecs')". No run there has a round twice.
        checkpoint_every: Rounds between checkpoints. One is also written before the evaluation of
            a round, and on SIGTERM and Ctrl-C; the last three are kept.
        compilation_cache: Folder in which compiled programs are kept for later commands, at most
            1 GiB. Default: fedjax-llm/programs in the user's cache folder; `off` keeps none.
        plugin: Modules that register codecs, methods or data of your own, such as mypkg.codecs.

    """
    load_plugins(plugin)
    keep_programs(compilation_cache)
    row = train_until_stopped(
        run,
        out,
        resume=resume,
        track=track,
        baselines=baselines,
        save_base=save_base,
        checkpoint_every=checkpoint_every,
        cache=cache,
        stopping=stop_signals,
    )
    shown = (f"{name:12} {nats(each)}" for name, each in row.get("baselines", {}).items())
    print_table(
        table([row]),
        f"{'federated':12} {nats(row)}",
        *shown,
        *failures([row]),
        f"{out / 'summary.json'}  digest {row['digest']}",
        *(f"{out / place}  {what}" for place, what in row.get("delivered", {}).items()),
    )
