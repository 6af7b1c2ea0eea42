"""Random masks of given probabilities (FedPM; Isik et al. 2022, arXiv:2209.15328)."""

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Key

from ..contract import Compressor, Like, Payload, State, Update
from ..entropy.entropy_coded import table_runs
from ..ops.flat import flatten, unflatten
from ..wire.leaves import Symbols

_FAILED = 2


def stochastic_mask() -> Compressor:
    """Send a one with each entry for its probability, and else a zero.

    FedPM trains no weights but which of frozen random ones to keep: a client's entries are
    p = sigmoid(scores), and the server takes the mean of the masks, or with pseudo-counts the mean
    of a Beta posterior, for the next probabilities.
    Guarantees: unbiased for p, with variance p (1 - p); zero and one are exact; entries below 0
    count as 0 and those above 1 as 1. An entry that is a NaN or an infinity decodes to a NaN.
    Payload: `Symbols`, a table for each run of tensors of 4,096 entries or more. A message has
    H(m) bits per entry, with m the share of ones in a run and H the entropy of a coin, a bit at
    most, to a part in a thousand; header and table take about 40 bytes.
    """

    def encode(key: Key[Array, ""], update: Update, state: State) -> tuple[Payload, State]:
        probability = flatten(update, who="stochastic_mask").astype(jnp.float32)
        ones = jr.uniform(key, probability.shape) < probability
        codes = jnp.where(jnp.isfinite(probability), ones.astype(jnp.uint32), _FAILED)
        return Symbols(codes, jnp.array(table_runs(update), jnp.int32)), state

    def decode(payload: Symbols, like: Like) -> Update:
        codes = jnp.asarray(payload.codes)
        return unflatten(jnp.where(codes < _FAILED, codes.astype(jnp.float32), jnp.nan), like)

    return Compressor(init=lambda like: (), encode=encode, decode=decode)
