"""What a run needs of memory at the least, held against what there is, before it allocates."""

import os
from pathlib import Path

import jax

from ..models import DecoderConfig, EncoderConfig
from ..models.config import check
from .config import RunConfig
from .live import mebibytes

_FLOAT = 4
_CGROUP = Path("/sys/fs/cgroup/memory.max")


def check_memory(config: RunConfig, model: DecoderConfig | EncoderConfig, *, texts: int) -> None:
    """Refuse sizes of which one array alone cannot fit into the device's memory.

    The arrays are the largest parameter, the batches of a client, and of a step the attention
    scores and the logits, or for an encoder, which has none, the inner entries of an MLP. A run
    that passes may still need more than there is.

    Args:
        config: The configuration, with all defaults in place.
        model: The model's sizes.
        texts: Texts in a row: two for pairs.

    Raises:
        ValueError: Naming the field that is to blame.

    """
    if isinstance(model, DecoderConfig):
        check(model)
        of_step, outputs = "the logits of a step take", model.vocab_size
    else:
        of_step, outputs = "the inner entries of a step take", model.intermediate_size
    heads, width = model.num_attention_heads, model.hidden_size
    rows = texts * config.batch
    lasting = "local_steps" if config.local_steps else "local_epochs"
    times = config.local_steps or config.local_epochs or 1
    drawn = times * config.batch if config.local_steps else times
    largest = max(width * model.intermediate_size, width * model.vocab_size)
    sizes = {name: getattr(model, name) for name in ("hidden_size", "intermediate_size")}
    row = {"seq": config.seq, "batch": config.batch}
    whole = {lasting: times, **row}
    needs = {
        "the largest parameter takes": (largest, sizes),
        "a client's tokens take": (texts * drawn * config.seq, whole),
        of_step: (rows * config.seq * outputs, row),
        "the attention scores of a step take": (rows * heads * config.seq**2, row),
    }
    have = memory()
    for what, (entries, fields) in needs.items():
        if entries * _FLOAT > have:
            name = max(fields, key=lambda each: fields[each])
            raise ValueError(
                f"{name}: expected what fits into {mebibytes(have)} of memory, got "
                f"{fields[name]}: {what} {mebibytes(entries * _FLOAT)}."
            )


def memory() -> int:
    """Bytes of memory that the first device has, or this machine where the device does not say."""
    stats = jax.devices()[0].memory_stats() or {}
    if limit := stats.get("bytes_limit"):
        return limit
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = _CGROUP.read_text().strip() if _CGROUP.exists() else "max"
    return min(whole, int(limit)) if limit.isdigit() else whole
