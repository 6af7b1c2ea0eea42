"""Writing a trigger and its target into windows of tokens."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from fedjax_compression.errors import message
from jaxtyping import Array, Bool

from .contract import Backdoor


def plant(
    backdoor: Backdoor,
    windows: Any,
    chosen: Bool[Array, "*axes"],
    shown: Bool[Array, " trigger"] | None = None,
) -> tuple[Any, Bool[Array, "*axes"]]:
    """Replace the ends of windows by a trigger and its target.

    The target's last token is the window's last target that counts. Of a changed window only the
    target's tokens count. A window is left as it is if it is too short, or if the trigger would
    begin in another document than the one that it ends in.

    Args:
        backdoor: Trigger and target.
        windows: A `Batch`, or another NamedTuple with its fields; leaves `[..., seq]`.
        chosen: Which windows to change, `[...]`.
        shown: Which tokens of the trigger to write; the window's own stay in the others' places.
            Default: all.

    Returns:
        The windows, and which were changed, `[...]`.

    Raises:
        ValueError: For data without windows of tokens, for windows that are all too short, and for
            tokens beyond the data's dtype.

    Example:
        >>> import jax.numpy as jnp, numpy as np
        >>> from fedjax_llm.attacks.contract import Backdoor
        >>> from fedjax_llm.attacks.planting import plant
        >>> from fedjax_llm.data import Batch
        >>> text = np.array([[1, 2, 3, 4, 5, 6]])
        >>> batch = Batch(text[:, :-1], text[:, 1:], np.ones((1, 5), bool))
        >>> batch, changed = plant(Backdoor((7, 8), (9,)), batch, jnp.array([True]))
        >>> batch.tokens.tolist(), batch.targets.tolist()
        ([[1, 2, 3, 7, 8]], [[0, 0, 0, 0, 9]])

    """
    tokens, targets, mask = check_windows(windows, who="backdoor")
    words = np.array(backdoor.trigger + backdoor.target)
    first, size, seq = len(backdoor.trigger), len(words), tokens.shape[-1]
    if size > seq + 1:
        expected = f"windows of at least {size - 1} tokens, those of trigger and target less one"
        raise ValueError(message("backdoor", "seq", expected, seq, "use a larger seq"))
    if (largest := int(words.max())) > (most := jnp.iinfo(tokens.dtype).max):
        raise ValueError(message("backdoor", "trigger", f"tokens of at most {most}", largest))
    place = jnp.arange(seq)
    end = jnp.where(mask, place, -1).max(axis=-1, keepdims=True)
    begin = end + 2 - size  # where the trigger's first token is an input
    fits = begin >= 0
    if (segments := getattr(windows, "segments", None)) is not None:
        segments = jnp.asarray(segments)
        ends = jnp.concatenate([jnp.maximum(begin, 0), jnp.maximum(end, 0)], axis=-1)
        there = jnp.take_along_axis(segments, ends, axis=-1)
        fits &= there[..., :1] == there[..., 1:]
    row = fits & chosen[..., None]
    written = (
        np.ones(size, bool) if shown is None else jnp.append(shown, np.ones(size - first, bool))
    )

    def write(old: Array, at: Array) -> Array:
        inside = row & (at >= 0) & (at < size)
        at = jnp.clip(at, 0, size - 1)
        here = inside & jnp.asarray(written)[at]
        return jnp.where(here, jnp.asarray(words, old.dtype)[at], old)

    at = place - begin
    counts = jnp.where(row, (at + 1 >= first) & (at + 1 < size), mask)
    targets = jnp.where(row & ~counts, 0, write(targets, at + 1))
    changed = windows._replace(
        tokens=write(tokens, at), targets=targets, mask=counts.astype(mask.dtype)
    )
    return changed, row[..., 0]


def check_windows(windows: Any, *, who: str) -> tuple[Array, Array, Array]:
    """The tokens, targets and mask of windows; raise `ValueError` for data of another kind."""
    fields: list[Any] = [getattr(windows, field, None) for field in ("tokens", "targets", "mask")]
    if any(each is None for each in fields) or len({jnp.shape(each) for each in fields}) > 1:
        expected = "windows of tokens with targets"
        raise ValueError(message(who, "batches", expected, type(windows).__name__))
    tokens, targets, mask = map(jnp.asarray, fields)
    return tokens, targets, mask
