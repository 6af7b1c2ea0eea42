"""Compiled rounds that several runs share."""

from collections.abc import Callable, Hashable
from typing import Any


class CompiledRounds:
    """The compiled programs of rounds, for several runs to share.

    Each call of `simulate` or `simulate_buffered` traces and compiles its own programs. In a sweep
    over seeds or conditions, create one `CompiledRounds()` and pass it as `compiled=` to every
    call: calls that agree in all of the following compile once together and compute the same bits
    as they would alone.

    - The algorithm is the same object. Two algorithms from equal calls of a factory compile twice.
    - The client axes are equal: `vmap() == vmap()`, but each `sharded()` is equal to itself alone.
    - All have faults or a network in their conditions, or none has. Which ones does not matter,
      except that a deadline compiles anew if the lengths of messages depend on their values.
    - `clients` (`buffer`, for buffered rounds), and the shapes and dtypes of the parameters and the
      batches.

    Programs stay in memory as long as this object does. `simulate_together` compiles one program
    for runs that also differ in numbers of the algorithm, such as a learning rate.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from fedjax_llm import fed_avg
        >>> from fedjax_llm.data import Batching, byte_corpus
        >>> from fedjax_llm.simulation import CompiledRounds, simulate
        >>> corpus = byte_corpus({"ann": "to be or not to be, that is the question"})
        >>> traces = []
        >>> def loss(logits, frozen, batch):  # a unigram model of bytes
        ...     traces.append(batch)
        ...     return -jax.nn.log_softmax(logits)[batch.targets].mean(where=batch.mask)
        >>> logits = jnp.zeros(256)
        >>> algorithm = fed_avg(loss, logits, client_optimizer=optax.sgd(1.0))
        >>> federation = algorithm, logits, (), corpus, Batching(seq=8, batch=1, steps=2)
        >>> compiled, counts = CompiledRounds(), []
        >>> for seed in (0, 1, 2):
        ...     (r,) = simulate(*federation, rounds=1, clients=1, seed=seed, compiled=compiled)
        ...     counts.append(len(traces))
        >>> counts[0] == counts[1] == counts[2]
        True

    """

    def __init__(self) -> None:
        self._built: dict[Hashable, Any] = {}

    def get(self, build: Callable[..., Any], *arguments: Hashable) -> Any:
        """Return `build(*arguments)`, called only once for equal arguments."""
        key = build, arguments
        if key not in self._built:
            self._built[key] = build(*arguments)
        return self._built[key]


def build_with(compiled: CompiledRounds | None) -> Callable[..., Any]:
    """`get` of the compiled rounds; without any, a function that builds anew in each call."""
    return compiled.get if compiled else lambda build, *arguments: build(*arguments)
