"""The frontier of uplink codecs: a study whose configurations differ in their uplink alone."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedjax_compression import Compressor

from ..runs import Named, Row, RunConfig
from .study import Study, run_study
from .sweep import CODECS


def frontier(
    base: RunConfig = RunConfig(),
    codecs: Sequence[str] | Mapping[str, Compressor] = CODECS,
    *,
    seeds: Sequence[int] | None = None,
    out: Path | str = "runs/frontier",
    together: bool = False,
) -> list[Row]:
    """Compare uplink codecs: how much loss for how many bytes?

    It is `run_study` of configurations that differ in their uplink, and writes what that does:
    `results.jsonl`, `frontier.png`, and `seconds.png` where the runs have a link.

    Args:
        base: What the runs have in common.
        codecs: Codecs as texts; or objects of your own by the text that names them, such as
            `{"mine(bits=2)": my_codec}`. Default: eight codecs.
        seeds: Seeds to repeat each codec with. Default: that of `base`.
        out: Folder for the results.
        together: Run the seeds of a codec as one program: equal to rounding, and faster where one
            run does not fill the device, for the memory of all.

    Returns:
        The summary rows, codec by codec for each seed.

    Raises:
        ValueError: For a wrong field of `base` or a wrong codec, before anything runs; for a
            folder that another process writes to.

    Example:
        >>> import tempfile
        >>> from fedjax_compression import eden
        >>> from fedjax_llm import DecoderConfig, RunConfig, frontier
        >>> tiny = RunConfig(
        ...     rounds=1, clients=2, local_steps=1, batch=1, seq=16,
        ...     data="shakespeare(roles='hamlet/HAMLET, macbeth/MACBETH, othello/IAGO')",
        ...     decoder=DecoderConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1),
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     (row,) = frontier(tiny, {"mine(bits=1)": eden(bits=1)}, out=folder)
        >>> row["codec"], row["uplink_bytes"] < row["downlink_bytes"] / 20
        ('mine(bits=1)', True)

    """
    if isinstance(codecs, Mapping):
        codecs = [Named(text, value) for text, value in codecs.items()]
    configs = [dataclasses.replace(base, uplink=codec) for codec in codecs]
    seeds = (base.seed,) if seeds is None else seeds
    return run_study(Study(configs, seeds=seeds), out=out, together=together)
