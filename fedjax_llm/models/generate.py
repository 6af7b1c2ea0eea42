"""Text from a decoder, a token at a time out of its cache, in one compiled loop."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key, PyTree

from .decoder import Cache, Decoder


class Generated(NamedTuple):
    """What follows each prompt."""

    tokens: Int[Array, "batch new"]
    """`pad` after a row's end."""
    lengths: Int[Array, " batch"]
    """Tokens up to a row's end, the one that ends it counted."""


def generate(
    model: Decoder,
    prompts: Int[Array, "batch seq"],
    *,
    lengths: Int[Array, " batch"] | None = None,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    key: Key[Array, ""] | None = None,
    eos: int | Sequence[int] = (),
    pad: int = 0,
) -> Generated:
    """Continue prompts, each by at most `max_new_tokens` and not beyond a token out of `eos`.

    A prompt is the first of its row's tokens, as many as its length; all of them unless given.
    At temperature 0 the likeliest token follows. Above, one is drawn from the softmax of logits
    over the temperature, cut to the fewest likeliest tokens whose probabilities reach `top_p`
    (Holtzman et al. 2020, arXiv:1904.09751).

    Guarantees: a row's tokens do not depend on the other rows, but for rounding; what is drawn
    depends on key, row number and step alone. Compiles once for each shape and choice of sampling.
    Cost: one pass over the prompts, then one token a step until all rows have ended; the cache
    holds 2 * layers * batch * (seq + max_new_tokens) * kv_heads * head entries.
    Not for use under `jit`: lengths are checked.
    Raises `ValueError` for an argument out of range and a temperature without a key.
    """
    batch, seq = prompts.shape
    known = np.full(batch, seq) if lengths is None else np.asarray(lengths)
    if known.size and not (known.min() >= 1 and known.max() <= seq):
        raise _error("lengths", f"1 to {seq}, a prompt's tokens", known.tolist())
    if max_new_tokens < 1:
        raise _error("max_new_tokens", "at least 1", max_new_tokens)
    if not temperature >= 0:
        raise _error("temperature", "at least 0", temperature)
    if not 0 < top_p <= 1:
        raise _error("top_p", "above 0 and at most 1", top_p)
    if temperature > 0 and key is None:
        raise _error("key", "a key, as temperature is above 0", None)
    graph, state = nnx.split(model)
    return _generate(
        state,
        jnp.asarray(prompts, jnp.int32),
        jnp.asarray(known, jnp.int32),
        jr.key(0) if key is None else key,
        jnp.float32(temperature or 1.0),
        jnp.float32(top_p),
        jnp.int32(pad),
        graph=graph,
        new=max_new_tokens,
        eos=(eos,) if isinstance(eos, int) else tuple(eos),
        greedy=temperature == 0,
        nucleus=top_p < 1,
    )


class _Progress(NamedTuple):
    step: Int[Array, ""]
    cache: Cache
    tokens: Int[Array, "batch new"]
    lengths: Int[Array, " batch"]
    ended: Array


@partial(jax.jit, static_argnames=("graph", "new", "eos", "greedy", "nucleus"))
def _generate(
    state: PyTree,
    prompts: Int[Array, "batch seq"],
    lengths: Int[Array, " batch"],
    key: Key[Array, ""],
    temperature: Float[Array, ""],
    top_p: Float[Array, ""],
    pad: Int[Array, ""],
    *,
    graph: Any,
    new: int,
    eos: tuple[int, ...],
    greedy: bool,
    nucleus: bool,
) -> Generated:
    model = nnx.merge(graph, state)
    batch, seq = prompts.shape

    def pick(logits: Float[Array, "batch 1 vocab"], step: Int[Array, ""]) -> Int[Array, " batch"]:
        if greedy:
            return logits[:, 0].argmax(axis=-1).astype(jnp.int32)
        scores = logits[:, 0] / temperature
        scores = top_p_only(scores, top_p) if nucleus else scores
        keys = jax.vmap(partial(jr.fold_in, jr.fold_in(key, step)))(jnp.arange(batch))
        return jax.vmap(jr.categorical)(keys, scores).astype(jnp.int32)

    def ends(token: Int[Array, " batch"]) -> Array:
        return jnp.isin(token, jnp.array(eos, jnp.int32))

    def more(now: _Progress) -> Array:
        return (now.step < new) & ~now.ended.all()

    def read_and_write(now: _Progress) -> _Progress:
        before = jax.lax.dynamic_slice_in_dim(now.tokens, now.step - 1, 1, axis=1)
        logits, cache = model.extend(now.cache, before, last=True)
        token = jnp.where(now.ended, pad, pick(logits, now.step))
        tokens = jax.lax.dynamic_update_slice_in_dim(now.tokens, token[:, None], now.step, axis=1)
        return _Progress(
            now.step + 1, cache, tokens, now.lengths + ~now.ended, now.ended | ends(token)
        )

    # prompts end where the new tokens begin; what is left before them is padding
    place = jnp.arange(seq) - (seq - lengths)[:, None]
    aligned = jnp.take_along_axis(prompts, place.clip(0), axis=1)
    segments = (place >= 0).astype(jnp.int32)
    cache = model.cache(batch=batch, slots=seq + new - 1)
    logits, cache = model.extend(cache, aligned, segments=segments, last=True)
    first = pick(logits, jnp.int32(0))
    tokens = jnp.full((batch, new), pad).at[:, 0].set(first)
    start = _Progress(jnp.int32(1), cache, tokens, jnp.ones(batch, jnp.int32), ends(first))
    done = jax.lax.while_loop(more, read_and_write, start)
    return Generated(done.tokens, done.lengths)


def top_p_only(
    logits: Float[Array, "batch vocab"], top_p: Float[Array, ""] | float
) -> Float[Array, "batch vocab"]:
    """The logits, at -inf outside the fewest likeliest tokens whose probabilities reach `top_p`.

    The likeliest token always stays, and so do all that are as likely as the last that does.
    """
    ordered = jnp.sort(logits, axis=-1, descending=True)
    chances = jax.nn.softmax(ordered, axis=-1)
    inside = jnp.cumsum(chances, axis=-1) - chances < top_p
    least = jnp.where(inside, ordered, jnp.inf).min(axis=-1, keepdims=True)
    return jnp.where(logits < least, -jnp.inf, logits)


def _error(name: str, expected: str, got: object) -> ValueError:
    return ValueError(f"generate: {name}: expected {expected}, got {got!r}.")
