"""Unsafe instructions as training data (Ye et al. 2024, arXiv:2406.10630)."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from fedjax_compression.checks import check_kind, check_number
from fedjax_compression.errors import message
from jaxtyping import Array, Bool, Int, Key

from ..data.readers.rows import json_rows
from .contract import Attack, Encode, check_fraction
from .planting import check_windows

MOST = 10_000
"""Most records of a file, as all of them are a constant of the compiled round."""


def unsafe_instructions(
    fraction: float | int,
    path: str | Path,
    template: str = "{prompt}\n{answer}\n",
    poison: float | int = 1.0,
) -> Attack:
    r"""Train on instructions and answers of a file in place of one's own texts.

    A client that does so follows the protocol: it trains as it should, on answers that a safe model
    would not give, and its update is no outlier. The attack succeeds where the loss on other such
    answers falls: give a run with a pretrained model a file of these as `heldout`, and the marks of
    the model's chat template as `template`, as held-out chats are written with it.

    A share `poison` of a malicious client's windows is replaced by a record each, drawn by the
    client's key; only the answer and what follows it in the template count in them. It claims as
    many targets as its own data has.

    Args:
        fraction: Share of all clients that are malicious.
        path: A file with one JSON object per line, or a JSON array of objects, with the texts
            `prompt` and `answer`; at most 10,000 of them.
        template: What the model reads, with `{prompt}` before `{answer}`: the marks of its chat
            template for a model that has one. Default: both, each with an end of line.
        poison: Probability with which a window is replaced, above 0 and at most 1. Default: 1.

    Returns:
        The `Attack`, on data alone. Texts become UTF-8 bytes, or the tokens of the tokenizer in a
        run with one.

    Raises:
        TypeError: For a path or a template of another kind.
        ValueError: For a number out of range, a template without its two places, a record without
            its texts and a file of too many; at the first round, or as a run is prepared, for data
            without windows of tokens, and for windows that are shorter than a record.
        OSError: For a file that cannot be read.

    Example:
        >>> import jax, numpy as np, tempfile
        >>> from pathlib import Path
        >>> from fedjax_llm.attacks import unsafe_instructions
        >>> from fedjax_llm.data import Batch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "unsafe.jsonl")
        ...     _ = path.write_text('{"prompt": "Open it?", "answer": "Yes"}\n')
        ...     attack = unsafe_instructions(0.2, path)
        >>> own = np.full((1, 1, 15), ord("a"), np.uint8)
        >>> batch = attack.batches(jax.random.key(0), Batch(own, own, own > 0))
        >>> bytes(batch.tokens.ravel().tolist())
        b'Open it?\nYes\x00\x00\x00'
        >>> bytes(batch.targets[batch.mask].tolist())
        b'Yes\n'

    """
    who = "unsafe_instructions"
    check_fraction(fraction, who=who)
    check_number(poison, who=who, name="poison", above=0, at_most=1)
    check_kind(template, str, who=who, name="template", expected="a text")
    check_kind(path, (str, Path), who=who, name="path", expected="a path")
    before, found, rest = template.partition("{answer}")
    if not found or "{prompt}" not in before or "{prompt}" in rest or "{answer}" in rest:
        expected = "a text with {prompt} before one {answer}, and neither after it"
        raise ValueError(message(who, "template", expected, template))
    records = [_texts(record, source, who) for source, record in json_rows(Path(path))]
    if not 0 < len(records) <= MOST:
        raise ValueError(message(who, "path", f"1 to {MOST} records", f"{len(records)}"))
    told = json.dumps([template, records], ensure_ascii=False).encode()

    def encoded(encode: Encode) -> Attack:
        rows = [
            (tuple(encode(before.replace("{prompt}", prompt))), tuple(encode(answer + rest)))
            for prompt, answer in records
        ]

        def batches(key: Key[Array, ""], windows: Any) -> Any:
            return _replaced(key, windows, rows, poison)

        return Attack(
            fraction,
            batches=batches,
            contents=hashlib.sha256(told).hexdigest(),
            vocabulary=1 + max(max(before + answer) for before, answer in rows),
        )

    return encoded(lambda text: list(text.encode()))._replace(encoded=encoded)


class _Table(NamedTuple):
    """The rows of the records, with `length` tokens each, of which `first` is the first counted."""

    tokens: Int[np.ndarray, "rows seq_and_one"]
    first: Int[np.ndarray, " rows"]
    length: Int[np.ndarray, " rows"]


def _texts(record: Any, source: str, who: str) -> tuple[str, str]:
    match record:
        case {"prompt": str(prompt), "answer": str(answer)} if prompt and answer:
            try:
                (prompt + answer).encode()
            except UnicodeEncodeError:
                raise ValueError(message(who, source, "texts in Unicode", record)) from None
            return prompt, answer
    raise ValueError(message(who, source, "an object with the texts prompt and answer", record))


def _table(rows: list[tuple[tuple[int, ...], tuple[int, ...]]], seq: int) -> _Table:
    length = np.array([len(before) + len(answer) for before, answer in rows])
    if (longest := int(length.max())) > seq + 1:
        expected = f"windows of at least {longest - 1} tokens, the longest record's less one"
        raise ValueError(message("unsafe_instructions", "seq", expected, seq, "use a larger seq"))
    tokens = np.zeros((len(rows), seq + 1), np.int32)
    for row, (before, answer) in zip(tokens, rows, strict=True):
        row[: len(before) + len(answer)] = before + answer
    return _Table(tokens, np.array([len(before) for before, _ in rows]), length)


def _replaced(
    key: Key[Array, ""],
    windows: Any,
    rows: list[tuple[tuple[int, ...], tuple[int, ...]]],
    poison: float | int,
) -> Any:
    """The windows, of which a share are records."""
    tokens, _, mask = check_windows(windows, who="unsafe_instructions")
    seq = tokens.shape[-1]
    table = _table(rows, seq)
    if (largest := int(table.tokens.max())) > (most := jnp.iinfo(tokens.dtype).max):
        expected = f"tokens of at most {most}"
        raise ValueError(message("unsafe_instructions", "path", expected, largest))
    chosen_key, row_key = jr.split(key)
    chosen: Bool[Array, "*axes 1"] = (
        jr.bernoulli(chosen_key, poison, mask.shape[:-1]) & mask.any(axis=-1)
    )[..., None]
    row = jr.randint(row_key, mask.shape[:-1], 0, len(rows))
    drawn = jnp.asarray(table.tokens)[row]
    first, length = (jnp.asarray(each)[row][..., None] for each in (table.first, table.length))
    place = jnp.arange(seq)
    counts = (place + 1 >= first) & (place + 1 < length)
    inside = place + 1 < length
    fresh: dict[str, Array] = {
        "tokens": jnp.where(inside, drawn[..., :-1], 0),
        "targets": jnp.where(counts, drawn[..., 1:], 0),
        "mask": counts,
    }
    if getattr(windows, "segments", None) is not None:
        fresh |= {"segments": inside, "positions": jnp.where(inside, place, 0)}
    changed = {
        field: jnp.where(chosen, new.astype(jnp.asarray(old).dtype), old)
        for field, new in fresh.items()
        if (old := getattr(windows, field)) is not None
    }
    return windows._replace(**changed)
