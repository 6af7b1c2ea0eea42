"""A sweep: one run per codec and seed, stored as rows; stored rows are not run again."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from fedjax_compression import Compressor

from ..runs import Named, Row, RunConfig, canonical, execute, execute_together, prepare
from ..runs.live import live_progress
from ..runs.results import append_row, read_rows

CODECS = (
    "identity()",
    "stochastic_quantize(bits=8)",
    "stochastic_quantize(bits=4)",
    "stochastic_quantize(bits=2)",
    "stochastic_quantize(bits=1)",
    "eden(bits=4)",
    "eden(bits=2)",
    "eden(bits=1)",
    "top_k(fraction=0.1)",
    "error_feedback(top_k(fraction=0.1))",
    "error_feedback(chain(top_k(fraction=0.1), stochastic_quantize(bits=4)))",
    "error_feedback(chain(top_k(fraction=0.1), eden(bits=1)))",
)
"""The codecs of the default sweep."""

QUICK_CODECS = (
    "identity()",
    "stochastic_quantize(bits=4)",
    "eden(bits=2)",
    "eden(bits=1)",
    "top_k(fraction=0.1)",
    "error_feedback(top_k(fraction=0.1))",
)
"""The codecs of the quick sweep."""

_DEFAULTS = dataclasses.asdict(canonical(RunConfig()))
"""Values of the fields that rows of earlier versions lack."""


def configurations(
    base: RunConfig, codecs: Sequence[str] | Mapping[str, Compressor], seeds: Sequence[int]
) -> list[RunConfig]:
    """The base configuration with each codec on the uplink and each seed.

    Args:
        base: What the runs have in common.
        codecs: Codecs as texts; or `Compressor` objects by the text that names them in rows.
        seeds: Seeds.

    Raises:
        ValueError: For a wrong field of `base` or a wrong codec, before anything runs.

    """
    if isinstance(codecs, Mapping):
        codecs = [Named(text, value) for text, value in codecs.items()]
    wanted = [
        dataclasses.replace(base, uplink=codec, seed=seed) for seed in seeds for codec in codecs
    ]
    if not wanted:
        raise ValueError("frontier: expected at least one codec and one seed, got none.")
    return list(dict.fromkeys(prepare(config).config for config in wanted))


def sweep(configs: Sequence[RunConfig], results: Path, *, together: bool = False) -> Iterator[Row]:
    """Yield the summary row of each configuration; run those whose row is missing.

    Args:
        configs: The configurations.
        results: File of rows (JSON lines); new rows are appended.
        together: Run configurations that differ only in their seed as one program.

    Raises:
        ValueError: For a file with a line that is no row.

    """
    rows = {}
    for number, row in enumerate(read_rows(results), start=1):
        if not isinstance(row.get("config"), dict):
            raise ValueError(f"{results}: line {number}: expected a row with config, got {row}.")
        rows[_key(row["config"])] = row
    for number, config in enumerate(configs, start=1):
        if _of(config) not in rows:
            missing = [
                each
                for each in configs
                if each == config
                or (together and _of(each) not in rows and _but_seed(each) == _but_seed(config))
            ]
            title = f"{number}/{len(configs)} {config.uplink}"
            with live_progress(title, rounds=config.rounds) as show:
                for new in _executed(missing, show):
                    rows[_key(new["config"])] = new
                    append_row(results, new)
        yield rows[_of(config)]


def _executed(configs: Sequence[RunConfig], show: Callable[[Row], None]) -> list[Row]:
    runs = [prepare(config) for config in configs]
    return [execute(runs[0], show)[0]] if len(runs) == 1 else execute_together(runs, show)


def _but_seed(config: RunConfig) -> RunConfig:
    return dataclasses.replace(config, seed=0)


def _of(config: RunConfig) -> str:
    return _key(dataclasses.asdict(config))


def _key(config: dict) -> str:
    """A configuration's identity; fields that did not exist yet had their defaults."""
    return json.dumps(
        _DEFAULTS | config | {"decoder": _DEFAULTS["decoder"] | config.get("decoder", {})},
        sort_keys=True,
    )
