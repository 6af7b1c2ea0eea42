"""Local privacy: each client clips and noises its update before anyone sees it."""

import jax
import jax.random as jr
from fedjax_compression import Compressor, identity
from fedjax_compression.checks import check_number
from fedjax_compression.contract import Payload, State, Update
from jaxtyping import Array, Key, PyTree

from ..precision import cast
from ..privacy import Mechanism, add_noise, clip_rows
from .contract import Aggregator, AtClients
from .held import check_rule
from .weighted_mean import weighted_mean


def local_dp(
    clip: float | int, noise_multiplier: float | int, rule: Aggregator | None = None
) -> Aggregator:
    """Let each client clip its update to norm `clip` and add Gaussian noise, before it encodes it.

    Each entry of an update gets noise of standard deviation `noise_multiplier * clip`. Codecs,
    error feedback and the rule come after the noise and cost nothing; any rule will do, robust ones
    too. The server is not trusted: what it gets of a client is private.

    Any two updates of a client are neighbours (`replace_one`), which differ by up to twice `clip`:
    the Gaussian mechanism of noise multiplier `noise_multiplier / 2`, exactly
    (`calibrate_noise_multiplier(..., relation="replace_one")` finds it). An update that is not
    finite is zero, and noised. Weights are the clients' numbers of targets, which are taken to be
    known. The mean of n clients has noise of `noise_multiplier * clip / sqrt(n)`, sqrt(n) times
    that of `dp_fed_avg`: what trusting nobody costs.

    Args:
        clip: Largest norm of an update, above 0.
        noise_multiplier: Standard deviation of the noise in units of `clip`, above 0.
        rule: How the server combines the decoded updates, a rule without noise. Default:
            `weighted_mean()`.

    Returns:
        The `Aggregator`, with `at_clients`.

    Raises:
        TypeError: For a rule of another kind.
        ValueError: For a number out of range, and for a rule with noise or of integers.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_llm.aggregators import local_dp
        >>> codec, mechanism = local_dp(1.0, 2.0).at_clients.build(None, jnp.zeros(10_000))
        >>> sent, _ = codec.encode(jax.random.key(0), jnp.zeros(10_000).at[0].set(9.0), ())
        >>> bool(abs(sent.std() - 2.0) < 0.1), mechanism.relation
        (True, 'replace_one')

    """
    who = "local_dp"
    check_number(clip, who=who, name="clip", above=0)
    check_number(noise_multiplier, who=who, name="noise_multiplier", above=0)
    if rule is not None:
        check_rule(rule, who=who)

    def noised(codec: Compressor) -> Compressor:
        def encode(key: Key[Array, ""], update: Update, state: State) -> tuple[Payload, State]:
            noise_key, own = jr.split(key)
            rows, _ = clip_rows(jax.tree.map(lambda leaf: leaf[None], update), clip)
            clipped = jax.tree.map(lambda leaf: leaf[0], rows)
            private = add_noise(noise_key, clipped, noise_multiplier * clip)
            return codec.encode(own, cast(private, update), state)

        given = codec.given
        known = None if given is None else (lambda update: noised(given(update)))
        return codec._replace(encode=encode, given=known, summable=None)

    def build(codec: Compressor | None, like: PyTree) -> tuple[Compressor, Mechanism]:
        mechanism = Mechanism(noise_multiplier, at_clients=True, relation="replace_one")
        return noised(codec or identity()), mechanism

    return (rule or weighted_mean())._replace(at_clients=AtClients(build))
