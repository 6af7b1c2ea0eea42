"""Updates that are hard to code without bias, and a measure of bias."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr

MESSAGES = 400


def spikes(values, entries):
    places = jnp.arange(len(values)) * (entries // (len(values) + 1)) + 7
    return jnp.zeros(entries).at[places].set(jnp.asarray(values))


HARD = {
    "one entry": lambda n: spikes([1.0], n),
    "two entries": lambda n: spikes([1.0, 0.5], n),
    "a large and a small entry": lambda n: spikes([1.0, 0.02], n),
    "two neighbours": lambda n: jnp.zeros(n).at[:2].set(jnp.array([1.0, -0.3])),
    "four entries": lambda n: spikes([1.0, 0.5, -0.7, 0.2], n),
    "eight entries": lambda n: spikes(jr.normal(jr.key(1), (8,)), n),
    "an outlier of 100": lambda n: jr.normal(jr.key(1), (n,)).at[n // 7].set(100.0),
    "Student t, two degrees": lambda n: jr.t(jr.key(1), 2.0, (n,)),
}


@functools.cache
def decoded(c):
    """Decoded messages of an update under several keys, compiled once for each shape."""

    def once(key, x):
        return c.decode(c.encode(key, x, ())[0], x)

    return jax.jit(lambda keys, x: jax.lax.map(lambda key: once(key, x), keys, batch_size=25))


def excess(c, x):
    """Error of the mean of 400 messages, times 400 over that of one: 1 without a bias."""
    left = decoded(c)(jr.split(jr.key(7), MESSAGES), x) - x
    one = (left**2).sum(axis=1).mean()
    return float(MESSAGES * (left.mean(axis=0) ** 2).sum() / one)
