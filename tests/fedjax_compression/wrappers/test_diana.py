import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression import identity, wire
from fedjax_compression.quantizers import eden
from fedjax_compression.sparsifiers import random_k
from fedjax_compression.wrappers import diana


def test_two_messages_worked_by_hand():
    """Where the messages of a half of all weight count."""
    c, x = diana(identity(), rate=0.5), jnp.array([4.0, 0.0])
    state, memory = c.init(x), c.receiver(x)
    payload, state = c.encode(jr.key(0), x, state)
    received, memory = c.receive(c.decode(payload, x), memory, 0.5)
    assert state.known.tolist() == [2.0, 0.0]
    assert (received.tolist(), memory.tolist()) == ([4.0, 0.0], [1.0, 0.0])
    payload, state = c.encode(jr.key(0), x, state)
    received, memory = c.receive(c.decode(payload, x), memory, 0.5)
    assert state.known.tolist() == [3.0, 0.0]
    assert (received.tolist(), memory.tolist()) == ([3.0, 0.0], [1.5, 0.0])


@pytest.mark.slow
def test_the_mean_stays_unbiased_and_its_error_goes_to_zero():
    c, xs = diana(eden(bits=1), rate=0.6), jr.normal(jr.key(0), (4, 2**12))
    mean = xs.mean(axis=0)

    @jax.jit
    def step(carry, key):
        states, memory = carry
        payloads, states = jax.vmap(c.encode)(jr.split(key, 4), xs, states)
        decoded = jax.vmap(lambda p: c.decode(p, mean))(payloads).mean(axis=0)
        received, memory = c.receive(decoded, memory, 1.0)
        return (states, memory), ((received - mean) ** 2).mean() / (mean**2).mean()

    first = jax.vmap(c.init)(xs), c.receiver(mean)
    _, errors = jax.lax.scan(step, first, jr.split(jr.key(1), 30))
    # power and error of the mean of four clients are both a quarter of one client's
    assert float(errors[0]) == pytest.approx(0.571, rel=0.1)
    assert float(errors[-1]) < 1e-6


@pytest.mark.slow
def test_it_is_unbiased_from_the_first_message():
    c, x, draws = diana(random_k(fraction=0.5), rate=0.5), jnp.linspace(-1.0, 1.0, 10), 4000

    def two(key):
        one, other = jr.split(key)
        payload, state = c.encode(one, x, c.init(x))
        _, memory = c.receive(c.decode(payload, x), c.receiver(x), 1.0)
        payload, _ = c.encode(other, x, state)
        return c.receive(c.decode(payload, x), memory, 1.0)[0]

    out = jax.vmap(two)(jr.split(jr.key(1), draws))
    deviation = np.asarray(out.std(axis=0))
    assert (np.abs(out.mean(axis=0) - x) <= 5 * deviation / draws**0.5 + 1e-6).all()


@pytest.mark.slow
def test_memory_costs_no_bytes():
    x = jnp.ones(100)
    sizes = [
        wire.nbytes(c.encode(jr.key(0), x, c.init(x))[0])
        for c in (eden(bits=1), diana(eden(bits=1), rate=0.5))
    ]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("rate", [0, 1.5, float("nan"), True])
def test_rates_out_of_range_are_refused(rate):
    with pytest.raises(
        ValueError, match=r"diana: rate: expected a (finite )?number above 0 and at most 1, got"
    ):
        diana(identity(), rate=rate)
