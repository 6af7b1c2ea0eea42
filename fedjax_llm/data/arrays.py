"""Client data of plain arrays, for losses of your own on any pytree of examples."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from fedjax_compression.checks import check_function, check_kind
from jaxtyping import Array, Bool, Float, Int, PyTree

from .contract import PieceRange, Rows
from .ranges import numbers_in, numbers_of


class ArrayBatch(NamedTuple):
    """A batch of examples of `Arrays`.

    A loss gets a batch of one step, with leaves `[batch, ...]`; `cohort_batches` returns the
    batches of a round, with leaves `[clients, steps, batch, ...]`.

    Attributes:
        data: The pytree of arrays, with the structure that `from_arrays` was given. Each leaf has
            the axes of `mask` in place of its axis of examples; it is zero where `mask` is False.
        mask: Which examples count, booleans `[..., batch]`.

    """

    data: PyTree
    mask: Bool[np.ndarray, "*axes"]


class Arrays(NamedTuple):
    """Examples of plain arrays by client; client data whose pieces, rows and targets are examples.

    `from_arrays` makes it. `seq` and `pack`, which are for tokens, are ignored.

    Attributes:
        names: The clients' names, sorted.
        data: A pytree whose leaves `[examples, ...]` have all clients' examples, one client after
            another.
        offsets: Client i has the examples offsets[i] to offsets[i + 1] - 1; shape `[clients + 1]`.

    """

    names: tuple[str, ...]
    data: PyTree
    offsets: Int[np.ndarray, " clients_and_end"]

    def targets(self) -> Int[np.ndarray, " clients"]:
        """Count each client's examples."""
        return self.pieces()

    def pieces(self) -> Int[np.ndarray, " clients"]:
        """Count each client's examples."""
        return np.diff(self.offsets)

    def most_rows(self, *, seq: int | None = None, pack: bool = True) -> int:
        """Count the examples of the client that has the most."""
        return int(self.pieces().max(initial=0))

    def rows(self, clients: Sequence[int], *, seq: int | None = None, pack: bool = True) -> Rows:
        """Give access to the examples of some clients, whose batches are of type `ArrayBatch`."""
        counts, examples = numbers_of(self.offsets, clients)

        def take(
            numbers: Int[np.ndarray, "*axes"], wanted: Bool[np.ndarray, "*axes"]
        ) -> ArrayBatch:
            def take_leaf(leaf: np.ndarray) -> np.ndarray:
                counted = wanted.reshape(wanted.shape + (1,) * (leaf.ndim - 1))
                return np.where(counted, leaf[examples[numbers]], np.zeros((), leaf.dtype))

            return ArrayBatch(jax.tree.map(take_leaf, self.data), wanted)

        return Rows(counts, take)

    def select(self, ranges: Sequence[PieceRange]) -> "Arrays":
        """Select examples of some clients, by a copy; see `ClientData.select`."""
        examples = numbers_in(self.offsets, ranges)
        names = tuple(self.names[client] for client, _, _ in ranges)
        offsets = np.cumsum([0, *(stop - first for _, first, stop in ranges)])
        return Arrays(names, jax.tree.map(lambda leaf: leaf[examples], self.data), offsets)


def from_arrays(clients: Mapping[str, PyTree]) -> Arrays:
    """Make client data of plain arrays, for a loss on any pytree.

    The loss gets `(params, frozen, batch)`, where `batch.data` is the pytree with leaves
    `[batch, ...]` and `batch.mask` says which examples count; it returns the mean over these.
    `masked_mean` makes such a loss of a loss per example. `params` and `frozen` are pytrees of
    arrays too; functions and sizes belong in the closure of the loss. `Batching` needs no `seq`.

    Memory: one copy of the data on the host, in its own dtypes.

    Args:
        clients: For each client's name, a pytree of NumPy or JAX arrays of numbers or booleans. All
            leaves `[examples, ...]` of a client have the same number of examples, at least 1. All
            clients' trees have the same structure, and the same dtypes and shapes apart from the
            number of examples.

    Returns:
        The data, clients sorted by name.

    Raises:
        TypeError: For anything but such a mapping, naming client and leaf.
        ValueError: For no client, a client without examples, leaves of different numbers of
            examples, and clients whose trees differ, naming client and leaf.

    Example:
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> import optax
        >>> from fedjax_llm import fed_avg
        >>> from fedjax_llm.data import Batching, from_arrays, masked_mean
        >>> from fedjax_llm.simulation import simulate
        >>> data = from_arrays({"ann": {"y": np.ones(1)}, "bob": {"y": np.full(3, 5.0)}})
        >>> loss = masked_mean(lambda params, frozen, data: (params - data["y"]) ** 2)
        >>> algorithm = fed_avg(loss, jnp.zeros(()), client_optimizer=optax.sgd(0.5))
        >>> rounds = simulate(
        ...     algorithm, jnp.zeros(()), (), data, Batching(batch=3, epochs=1),
        ...     rounds=1, clients=2, seed=0,
        ... )
        >>> [float(done.state.params) for done in rounds]  # the mean of 1, 5, 5 and 5
        [4.0]

    """
    expected = "a mapping from client to a pytree of arrays"
    check_kind(clients, Mapping, who="from_arrays", name="clients", expected=expected)
    if not clients:
        raise ValueError("from_arrays: clients: expected at least one client, got none.")
    for client in clients:
        check_kind(
            client,
            str,
            who="from_arrays",
            name="clients",
            expected="names of type str",
            remedy=f"use {str(client)!r}",
        )
    names = tuple(sorted(clients))
    first = clients[names[0]]
    for name in names:
        _check_examples(name, clients[name])
        _check_alike(name, clients[name], names[0], first)
    sizes = [len(jax.tree.leaves(clients[name])[0]) for name in names]
    trees = [jax.tree.map(np.asarray, clients[name]) for name in names]
    data = jax.tree.map(lambda *leaves: np.concatenate(leaves), *trees)
    return Arrays(names, data, np.cumsum([0, *sizes]))


def masked_mean(
    per_example: Callable[[PyTree, PyTree, PyTree], Float[Array, " batch"]],
) -> Callable[[PyTree, PyTree, Any], Float[Array, ""]]:
    """Make a loss for `Arrays` of a loss per example: its mean over the examples that count.

    Guarantees: an example that does not count affects neither value nor gradient, even where
    `per_example` would be NaN or infinite on zeros: it is computed on a copy of an example that
    counts instead. Where no example counts, value and gradient are 0. The mean is taken in float32
    or wider. `per_example` must compute each value from its own example alone.

    Args:
        per_example: `(params, frozen, data) -> values`, where `data` is a pytree with leaves
            `[batch, ...]` and `values` has the shape `[batch]`.

    Returns:
        `(params, frozen, batch) -> loss`, where `batch` is an `ArrayBatch` with leaves
        `[batch, ...]` and `loss` is a scalar.

    Raises:
        TypeError: For a `per_example` that is not a function.
        ValueError: From the loss, where `values` does not have the shape `[batch]`.

    Example:
        >>> import numpy as np
        >>> from fedjax_llm.data import ArrayBatch, masked_mean
        >>> loss = masked_mean(lambda params, frozen, data: params * data)
        >>> batch = ArrayBatch(np.array([1.0, 3.0, 100.0]), np.array([True, True, False]))
        >>> float(loss(2.0, (), batch))
        4.0

    """
    signature = "(params, frozen, data) -> values"
    check_function(per_example, who="masked_mean", name="per_example", signature=signature)

    def loss(params: PyTree, frozen: PyTree, batch: Any) -> Float[Array, ""]:
        mask = jnp.asarray(batch.mask)
        count = mask.sum()
        # A masked row becomes a copy of a counted one: zero times an infinite gradient is NaN.
        row = jnp.where(mask, jnp.arange(len(mask)), jnp.argmax(mask))
        data = jax.tree.map(lambda leaf: jnp.asarray(leaf)[row], batch.data)
        # Where no row counts, no row is safe: the gradient is cut off by the same rule.
        params = jax.tree.map(lambda p: jnp.where(count > 0, p, jax.lax.stop_gradient(p)), params)
        values = jnp.asarray(per_example(params, frozen, data))
        if values.shape != mask.shape:
            raise ValueError(
                f"masked_mean: per_example: expected values of shape {mask.shape}, one for each "
                f"example, got shape {values.shape}."
            )
        values = values.astype(jnp.promote_types(values.dtype, jnp.float32))
        return jnp.where(mask, values, 0).sum() / jnp.maximum(count, 1).astype(values.dtype)

    return loss


def _check_examples(client: str, tree: PyTree) -> None:
    """Raise unless the leaves of a client are arrays with the same number of examples, above 0."""
    who, first = f"from_arrays: client {client!r}", None
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    if not leaves:
        raise ValueError(f"{who}: expected a pytree with at least one array, got none.")
    for path, leaf in leaves:
        where = f"{who}: {_named(path)}"
        if not _is_array(leaf):
            raise TypeError(
                f"{where}: expected an array of numbers or booleans, got {_kind(leaf)}; "
                "numpy.asarray makes one of a list."
            )
        if leaf.ndim == 0:
            raise ValueError(f"{where}: expected a leading axis of examples, got shape ().")
        if leaf.shape[0] == 0:
            raise ValueError(
                f"{where}: expected at least one example, got none; leave the client out."
            )
        first = (path, leaf.shape[0]) if first is None else first
        if leaf.shape[0] != first[1]:
            raise ValueError(
                f"{where}: expected {first[1]} examples, as many as {_named(first[0])} has, got "
                f"{leaf.shape[0]}."
            )


def _check_alike(client: str, tree: PyTree, other: str, like: PyTree) -> None:
    """Raise unless the trees of two clients differ in nothing but their number of examples."""
    who = f"from_arrays: client {client!r}"
    leaves, expected = (dict(jax.tree_util.tree_leaves_with_path(each)) for each in (tree, like))
    for path in [*expected, *leaves]:
        if path not in leaves:
            raise ValueError(
                f"{who}: {_named(path)}: expected an array, as client {other!r} has, got none."
            )
        if path not in expected:
            raise ValueError(
                f"{who}: {_named(path)}: expected nothing, as client {other!r} has none, got an "
                "array."
            )
    wanted: Any = jax.tree.structure(like)
    if (got := jax.tree.structure(tree)) != wanted:
        raise ValueError(f"{who}: expected the structure of client {other!r}, {wanted}, got {got}.")
    for path, leaf in leaves.items():
        if _kind(leaf) != _kind(expected[path]):
            raise ValueError(
                f"{who}: {_named(path)}: expected {_kind(expected[path])}, as client {other!r} "
                f"has, got {_kind(leaf)}."
            )


def _is_array(leaf: Any) -> bool:
    array = isinstance(leaf, np.ndarray | jax.Array)
    return array and (leaf.dtype == bool or jnp.issubdtype(leaf.dtype, jnp.number))


def _kind(leaf: Any) -> str:
    """A leaf as errors show it: an array's dtype and shape of one example, or a value's type."""
    if not isinstance(leaf, np.ndarray | jax.Array):
        return type(leaf).__name__
    return f"{leaf.dtype}[{', '.join(['examples', *map(str, leaf.shape[1:])])}]"


def _named(path: Any) -> str:
    return f"leaf {jax.tree_util.keystr(path)}" if path else "its array"
