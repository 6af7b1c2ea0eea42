"""Measuring a model client by client, with one compiled program for all clients."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from fedjax_compression.checks import check_function, check_kind
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, PyTree

from ..checks import check_count, check_real
from ..client_training import Frozen, Params
from ..data import ClientData
from ..data.checks import check_client_data
from ..tasks import Measure, Scores

GoOn = Callable[[int, int], bool]
"""`(done, rows) -> whether to go on`: told how many of an evaluation's rows are measured."""


class ByClient(NamedTuple):
    """The values of a measure for each client.

    Attributes:
        names: The clients' names.
        totals: Sum of the measure over each client's data, shape `[clients]`.
        counts: Number of targets, pairs, texts or bytes that each total is over: the client's
            weight. Shape `[clients]`.

    Example:
        >>> import numpy as np
        >>> from fedjax_llm.evaluation import ByClient
        >>> ByClient(("ann", "bob"), np.array([6.0, 0.0]), np.array([4.0, 0.0])).values.tolist()
        [1.5, nan]

    """

    names: tuple[str, ...]
    totals: Float[np.ndarray, " clients"]
    counts: Float[np.ndarray, " clients"]

    @property
    def values(self) -> Float[np.ndarray, " clients"]:
        """Mean of each client, totals over counts; NaN for a client whose count is 0."""
        counted = self.counts > 0
        return np.where(counted, self.totals / np.where(counted, self.counts, 1), np.nan)


def by_client(
    measure: Measure,
    params: Params,
    frozen: Frozen,
    data: ClientData,
    *,
    seq: int | None,
    batch: int = 64,
    pack: bool = True,
    clients: Sequence[int] | None = None,
    go_on: GoOn | None = None,
) -> ByClient:
    """Measure one model on each client's data.

    Batches have one size and take rows of any client, so that no client is padded to the size of
    another. A measure is compiled once for all clients, and again only for other shapes. Sums over
    batches are float64. If parameters lie on several devices of one mesh, as those of a simulation
    with `sharded()` do, the devices share the rows of a batch.

    Args:
        measure: `(params, frozen, batch) -> scores`, such as `task.nats`.
        params: The trainable parameters.
        frozen: The frozen parameters.
        data: Client data, such as the `heldout` of a `HoldOut`.
        seq: Tokens per row; data without tokens ignores it.
        batch: Rows per batch; default 64. Devices that share them take the same number each, which
            is rounded up.
        pack: Whether a window of text takes several documents; default True.
        clients: Indices of the clients to measure; default all.
        go_on: `(done, rows) -> whether to go on`, called before the first batch and after each.
            Default: all batches.

    Returns:
        Totals and counts of these clients, in their order; of the rows so far where `go_on` ended
        the measure. Rows are measured client by client.

    Raises:
        TypeError: If `measure` cannot be called, or `data` is not client data.
        ValueError: If `batch` is below 1.

    Example:
        >>> import jax, jax.numpy as jnp, jax.random as jr
        >>> from fedjax_llm import DecoderConfig, language_model
        >>> from fedjax_llm.data import byte_corpus
        >>> from fedjax_llm.evaluation import by_client
        >>> config = DecoderConfig(hidden_size=8, intermediate_size=12, num_attention_heads=2)
        >>> task = language_model(config, key=jr.key(0))
        >>> zeros = jax.tree.map(jnp.zeros_like, task.params)  # all 256 bytes alike
        >>> corpus = byte_corpus({"ann": "a rose is a rose is a rose", "bob": "x" * 33})
        >>> measured = by_client(task.nats, zeros, task.frozen, corpus, seq=16, batch=2)
        >>> measured.counts.tolist(), measured.values.round(4).tolist()
        ([25.0, 32.0], [5.5452, 5.5452])

    """
    signature = "(params, frozen, batch) -> scores"
    check_function(measure, who="by_client", name="measure", signature=signature)
    check_client_data(data, who="by_client")
    check_count(batch, who="by_client", name="batch")
    clients = range(len(data.names)) if clients is None else clients
    rows = data.rows(clients, seq=seq, pack=pack)
    sharding = _rows_over_devices((params, frozen))
    if sharding:
        shards = sharding.num_devices // sharding.shard_shape((sharding.num_devices,))[0]
        batch = -(-batch // shards) * shards
    owner = np.repeat(np.arange(len(clients)), rows.counts)
    totals, counts = np.zeros(len(clients)), np.zeros(len(clients))
    for start in range(0, len(owner), batch):
        if go_on and not go_on(start, len(owner)):
            break
        number = np.arange(start, start + batch)
        wanted = number < len(owner)
        number = np.minimum(number, len(owner) - 1)
        taken = rows.take(number, wanted)
        if sharding:
            taken = jax.tree.map(partial(_distributed, sharding=sharding), taken)
        scores = jax.device_get(_run(params, frozen, taken, measure=measure, sharding=sharding))
        np.add.at(totals, owner[number], scores.totals * wanted)
        np.add.at(counts, owner[number], scores.counts * wanted)
    else:
        if go_on:
            go_on(len(owner), len(owner))
    return ByClient(tuple(data.names[client] for client in clients), totals, counts)


def by_own_model(
    measure: Measure,
    params_of: Callable[[str], Params],
    frozen: Frozen,
    data: ClientData,
    *,
    seq: int | None,
    batch: int = 16,
    go_on: GoOn | None = None,
) -> ByClient:
    """Measure each client's own model on that client's data.

    Clients are measured one after another: only one client's parameters are in memory at a time.

    Args:
        measure: `(params, frozen, batch) -> scores`, such as `task.nats`.
        params_of: `(name) -> params`: the trainable parameters of a client.
        frozen: The frozen parameters, the same for all clients.
        data: Client data.
        seq: Tokens per row; data without tokens ignores it.
        batch: Rows per batch; default 16. Each client's last batch is padded with rows that do not
            count.
        go_on: As for `by_client`, with the rows of all clients.

    Returns:
        Totals and counts of all clients; of the rows so far where `go_on` ended the measure.

    Raises:
        TypeError: If `measure` or `params_of` cannot be called, or `data` is not client data.
        ValueError: If `batch` is below 1.

    Example:
        >>> import jax, jax.numpy as jnp, jax.random as jr
        >>> from fedjax_llm import DecoderConfig, language_model
        >>> from fedjax_llm.data import byte_corpus
        >>> from fedjax_llm.evaluation import by_own_model
        >>> config = DecoderConfig(hidden_size=8, intermediate_size=12, num_attention_heads=2)
        >>> task = language_model(config, key=jr.key(0))
        >>> zeros = jax.tree.map(jnp.zeros_like, task.params)  # all 256 bytes alike
        >>> models = {"ann": zeros, "bob": jax.tree.map(lambda leaf: leaf * jnp.nan, zeros)}
        >>> corpus = byte_corpus({"ann": "a rose is a rose is a rose", "bob": "x" * 33})
        >>> measured = by_own_model(task.nats, models.get, task.frozen, corpus, seq=16, batch=2)
        >>> measured.values.round(4).tolist()
        [5.5452, nan]

    """
    signature = "(name) -> params"
    check_function(params_of, who="by_own_model", name="params_of", signature=signature)
    check_client_data(data, who="by_own_model")
    rows = data.rows(range(len(data.names)), seq=seq).counts
    ends = np.cumsum(rows)
    measured = ByClient(tuple(data.names), np.zeros(len(rows)), np.zeros(len(rows)))
    ended = False

    def goes_on(before: int, done: int, _: int) -> bool:
        nonlocal ended
        ended = go_on is not None and not go_on(before + done, int(ends[-1]))
        return not ended

    for client, name in enumerate(data.names):
        before = int(ends[client] - rows[client])
        one = by_client(
            measure,
            params_of(name),
            frozen,
            data,
            seq=seq,
            batch=batch,
            clients=[client],
            go_on=partial(goes_on, before),
        )
        measured.totals[client], measured.counts[client] = one.totals[0], one.counts[0]
        if ended:
            break
    return measured


@partial(jax.jit, static_argnames=("measure", "sharding"))
def _run(
    params: Params,
    frozen: Frozen,
    batch: PyTree,
    *,
    measure: Measure,
    sharding: NamedSharding | None,
) -> Scores:
    scores = measure(params, frozen, batch)
    if sharding is None:
        return scores
    # On every device, so that each of several processes can read all scores.
    return jax.lax.with_sharding_constraint(scores, NamedSharding(sharding.mesh, PartitionSpec()))


def _rows_over_devices(parameters: PyTree) -> NamedSharding | None:
    """Rows over those axes of the parameters' mesh that hold the same parameters.

    None if the parameters lie on one device, or no axis of their mesh is free.
    """
    leaves = [leaf for leaf in jax.tree.leaves(parameters) if isinstance(leaf, jax.Array)]
    there = [s for leaf in leaves if isinstance(s := leaf.sharding, NamedSharding)]
    meshes = {s.mesh for s in there if s.num_devices > 1}
    if len(meshes) != 1:
        return None
    (mesh,) = meshes
    if not isinstance(mesh, Mesh):
        return None
    taken = set(jax.tree.leaves([tuple(s.spec) for s in there]))
    free = tuple(name for name in mesh.axis_names if name not in taken)
    return NamedSharding(mesh, PartitionSpec(free)) if free else None


def _distributed(leaf: np.ndarray, *, sharding: NamedSharding) -> jax.Array:
    """A leaf `[rows, ...]` that every process has whole, on the devices."""
    leaf = np.asarray(leaf)
    return jax.make_array_from_callback(leaf.shape, sharding, leaf.__getitem__)


class Distribution(NamedTuple):
    """The distribution of a measure over clients.

    Attributes:
        clients: Number of clients with a count above 0; the others are left out.
        mean: Mean over clients, each with the same weight.
        weighted_mean: Mean weighted by the clients' counts: the mean over all targets.
        quantiles: Quantiles over clients, linearly interpolated, by the share of clients below.
        worst_tenth: Mean over the worst tenth of clients, their number rounded up (Li et al. 2019,
            arXiv:1905.10497).

    """

    clients: int
    mean: float
    weighted_mean: float
    quantiles: dict[float, float]
    worst_tenth: float


def distribution(
    measured: ByClient,
    *,
    higher_is_better: bool,
    quantiles: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75, 0.9),
) -> Distribution:
    """Summarise a measure over clients.

    If a client's value is NaN, the means and the quantiles are NaN; `worst_tenth` leaves that
    client out, and is NaN only if no client has another value.

    Args:
        measured: The measure by client.
        higher_is_better: True for accuracies, False for nats.
        quantiles: Which quantiles, each from 0 to 1; default .1, .25, .5, .75 and .9.

    Returns:
        The summary.

    Raises:
        TypeError: If `measured` is not a `ByClient`.
        ValueError: If no client has a count above 0, or a quantile is out of range.

    Example:
        >>> import numpy as np
        >>> from fedjax_llm.evaluation import ByClient, distribution
        >>> measured = ByClient(("ann", "bob"), np.array([1.0, 30.0]), np.array([1.0, 3.0]))
        >>> spread = distribution(measured, higher_is_better=False)
        >>> spread.mean, spread.weighted_mean, spread.quantiles[0.5], spread.worst_tenth
        (5.5, 7.75, 5.5, 10.0)

    """
    who = "distribution"
    check_kind(measured, ByClient, who=who, name="measured", expected="a ByClient")
    for quantile in quantiles:
        check_real(quantile, who=who, name="quantiles", at_least=0, at_most=1)
    counted = measured.counts > 0
    if not counted.any():
        raise ValueError(
            "distribution: measured: expected a client with a count above 0, got none."
        )
    values = measured.values[counted]
    numbers = np.sort(values[~np.isnan(values)])
    worst_first = numbers if higher_is_better else numbers[::-1]
    tenth = worst_first[: -(-len(values) // 10)]
    at_quantiles = np.quantile(values, quantiles)
    return Distribution(
        int(counted.sum()),
        float(values.mean()),
        float(measured.totals.sum() / measured.counts.sum()),
        {q: float(value) for q, value in zip(quantiles, at_quantiles, strict=True)},
        float(tenth.mean()) if len(tenth) else float("nan"),
    )
