"""Generation of text with a decoder and its cache, one token per step of a compiled loop."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from fedjax_compression.checks import check_integer, check_kind, check_number
from flax import nnx
from jaxtyping import Array, Float, Int, Key, PyTree

from .decoder import Cache, Decoder


class Generated(NamedTuple):
    """Continuations of prompts, as `generate` returns them.

    Attributes:
        tokens: New tokens of each row, `[batch, new]`, with `pad` after the end of a row.
        lengths: Number of new tokens of each row, `[batch]`, its end token included.

    """

    tokens: Int[Array, "batch new"]
    lengths: Int[Array, " batch"]


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
    """Continue each prompt by at most `max_new_tokens` tokens, or up to the first token in `eos`.

    At temperature 0 the most likely token is chosen. Above 0, a token is drawn from the softmax of
    logits / temperature, restricted to the fewest most likely tokens whose probabilities sum to at
    least `top_p` (Holtzman et al. 2020, arXiv:1904.09751).

    A row's tokens do not depend on the other rows, except for rounding: the random draw depends
    only on the key, the row's index and the step. Each combination of shapes, `eos` and sampling
    rule compiles once. `lengths` are checked, so this function cannot run under `jit`.

    Cost: one pass over the prompts, then one token per step until every row has ended. The cache
    has 2 * layers * batch * (seq + max_new_tokens - 1) * kv_heads * head entries.

    Args:
        model: The decoder, with or without an adapter.
        prompts: Token ids `[batch, seq]`; the prompt of a row is its first `lengths` tokens.
        lengths: Number of prompt tokens of each row, 1 to seq; seq by default.
        max_new_tokens: Largest number of new tokens of a row, at least 1.
        temperature: Divisor of the logits before sampling; 0 (the default) chooses greedily.
        top_p: Probability that the tokens drawn from must reach, above 0 and at most 1 (the
            default: all tokens).
        key: Random key; required for a temperature above 0.
        eos: Token id, or several, after which a row ends; none by default.
        pad: Token id after the end of a row; 0 by default.

    Returns:
        The new tokens and their number for each row.

    Raises:
        TypeError: `model` is not a `Decoder`, `prompts` are not an array, or `eos` is not token
            ids.
        ValueError: An argument is out of range, or a temperature above 0 comes without a key.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from fedjax_llm.models import Decoder, DecoderConfig, generate
        >>> config = DecoderConfig(vocab_size=16, hidden_size=8, num_attention_heads=2)
        >>> model = Decoder(config, rngs=nnx.Rngs(0))
        >>> prompts = jnp.array([[3, 1, 4], [1, 5, 0]])
        >>> out = generate(model, prompts, lengths=jnp.array([3, 2]), max_new_tokens=4)
        >>> out.tokens.shape, out.lengths.tolist()
        ((2, 4), [4, 4])

    """
    check_kind(
        model,
        Decoder,
        who="generate",
        name="model",
        expected="a Decoder",
        remedy="from_params(config, params) makes one",
    )
    check_kind(
        prompts,
        (jax.Array, np.ndarray),
        who="generate",
        name="prompts",
        expected="an array of token ids [batch, seq]",
        remedy="jnp.asarray makes one",
    )
    if prompts.ndim != 2:
        raise _error("prompts", "an array of shape [batch, seq]", prompts.shape)
    batch, seq = prompts.shape
    known = np.full(batch, seq) if lengths is None else np.asarray(lengths)
    if known.shape != (batch,):
        raise _error("lengths", f"one for each of {batch} prompts", known.tolist())
    if known.size and not (known.min() >= 1 and known.max() <= seq):
        raise _error("lengths", f"1 to {seq} tokens each", known.tolist())
    check_integer(max_new_tokens, who="generate", name="max_new_tokens", at_least=1)
    check_number(temperature, who="generate", name="temperature", at_least=0)
    check_number(top_p, who="generate", name="top_p", above=0, at_most=1)
    if temperature > 0 and key is None:
        raise _error("key", "a key, as temperature is above 0", None)
    ends = _token_ids(eos)
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
        eos=ends,
        greedy=temperature == 0,
        nucleus=top_p < 1,
    )


def _token_ids(eos: Any) -> tuple[int, ...]:
    """`eos` as a tuple; raise `TypeError` for anything but token ids."""
    ids = eos if isinstance(eos, Iterable) and not isinstance(eos, str) else (eos,)
    ids = tuple(ids)
    for token in ids:
        check_kind(
            token,
            (int, np.integer),
            who="generate",
            name="eos",
            expected="a token id or a sequence of them",
        )
    return ids


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

    def step(now: _Progress) -> _Progress:
        before = jax.lax.dynamic_slice_in_dim(now.tokens, now.step - 1, 1, axis=1)
        logits, cache = model.extend(now.cache, before, last=True)
        token = jnp.where(now.ended, pad, pick(logits, now.step))
        tokens = jax.lax.dynamic_update_slice_in_dim(now.tokens, token[:, None], now.step, axis=1)
        return _Progress(
            now.step + 1, cache, tokens, now.lengths + ~now.ended, now.ended | ends(token)
        )

    # align prompts to the right, so that new tokens follow at once, with padding before them
    place = jnp.arange(seq) - (seq - lengths)[:, None]
    aligned = jnp.take_along_axis(prompts, place.clip(0), axis=1)
    segments = (place >= 0).astype(jnp.int32)
    cache = model.cache(batch=batch, slots=seq + new - 1)
    logits, cache = model.extend(cache, aligned, segments=segments, last=True)
    first = pick(logits, jnp.int32(0))
    tokens = jnp.full((batch, new), pad).at[:, 0].set(first)
    start = _Progress(jnp.int32(1), cache, tokens, jnp.ones(batch, jnp.int32), ends(first))
    done = jax.lax.while_loop(more, step, start)
    return Generated(done.tokens, done.lengths)


def top_p_only(
    logits: Float[Array, "batch vocab"], top_p: Float[Array, ""] | float
) -> Float[Array, "batch vocab"]:
    """Set logits to -inf outside the fewest most likely tokens whose probabilities reach `top_p`.

    The most likely token is always kept, and so are all tokens as likely as the last one kept.
    """
    ordered = jnp.sort(logits, axis=-1, descending=True)
    chances = jax.nn.softmax(ordered, axis=-1)
    inside = jnp.cumsum(chances, axis=-1) - chances < top_p
    least = jnp.where(inside, ordered, jnp.inf).min(axis=-1, keepdims=True)
    return jnp.where(logits < least, -jnp.inf, logits)


def _error(name: str, expected: str, got: object) -> ValueError:
    return ValueError(f"generate: {name}: expected {expected}, got {got!r}.")
