"""Random binary masks with given probabilities (FedPM; Isik et al. 2022, arXiv:2209.15328)."""

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Key

from ..contract import Compressor, Like, Payload, State, Update
from ..entropy.entropy_coded import table_runs
from ..ops.flat import flatten, unflatten
from ..wire.leaves import Symbols

_FAILED = 2
"""Code of an entry that is not finite."""


def stochastic_mask() -> Compressor:
    """Send each entry p as a one with probability p and as a zero otherwise.

    In FedPM the weights are random and frozen, and clients train which of them to keep: a client's
    update is p = sigmoid(scores). The server uses the mean of the masks as the next probabilities,
    or, with pseudo-counts, the mean of a Beta posterior.

    Guarantees: unbiased, with variance p (1 - p) per entry. Zeros and ones are exact. Entries below
    0 are treated as 0, and those above 1 as 1. A NaN or an infinity decodes to a NaN in its place;
    other entries are unaffected.

    Payload: `Symbols`. Each tensor of 4,096 entries or more has a separate table, which smaller
    neighbours share. A message has H(m) bits per entry to within one part in a thousand, where m is
    the share of ones among the entries of a table and H is the binary entropy, at most one bit.
    Header and table take about 40 bytes.

    Returns:
        A stateless `Compressor`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_compression import stochastic_mask, wire
        >>> c, p = stochastic_mask(), jnp.tile(jnp.array([0.0, 1.0]), 400)
        >>> payload, _ = c.encode(jax.random.key(0), p, c.init(p))
        >>> wire.nbytes(payload)  # 800 entries at one bit take 100 bytes
        128
        >>> c.decode(payload, p)[:4].tolist()
        [0.0, 1.0, 0.0, 1.0]

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
