"""Client axes on one device: all clients at once, one after another, or in chunks."""

from functools import partial as bind
from typing import Any

import jax
from fedjax_compression.checks import check_integer
from jaxtyping import Array, Float, PyTree

from .contract import Client, ClientAxis, Outputs, RoundGather


def vmap() -> ClientAxis:
    """Run all clients of a cohort at once, with `jax.vmap`.

    Memory grows with the cohort: batches, activations and messages of all clients.

    Returns:
        The client axis. Two calls return equal axes.

    Example:
        >>> from fedjax_llm.simulation import vmap
        >>> vmap().at_most is None, vmap() == vmap()
        (True, True)

    """
    return ClientAxis(_run_at_once)


def scan() -> ClientAxis:
    """Run the clients of a cohort one after another, with `jax.lax.scan`.

    Memory: the activations of one client, and the batches and messages of the whole cohort.

    Returns:
        The client axis. Two calls return equal axes.

    Example:
        >>> from fedjax_llm.simulation import scan
        >>> scan().at_most is None, scan() == scan()
        (True, True)

    """
    return ClientAxis(_run_in_turn)


def chunked(size: int) -> ClientAxis:
    """Run a cohort in chunks, each chunk at once with `jax.vmap`.

    Memory does not grow with the cohort: it is that of two chunks, with their batches and messages,
    because the host reads one chunk's results while the device computes the next.

    Args:
        size: Clients in a chunk, at least 1.

    Returns:
        The client axis. Two calls with one size return equal axes.

    Raises:
        ValueError: For a size that is no integer of at least 1.

    Example:
        >>> from fedjax_llm.simulation import chunked
        >>> chunked(32).at_most
        32

    """
    check_integer(size, who="chunked", name="size", at_least=1)
    return vmap()._replace(at_most=size)


def _run_at_once(
    client: Client,
    gather: RoundGather,
    shared: PyTree,
    partial: PyTree,
    inputs: PyTree,
    weights: Float[Array, " clients"],
) -> tuple[PyTree, Outputs]:
    outputs = jax.vmap(bind(client, shared))(inputs)
    return gather.add(shared, partial, outputs[0], weights), outputs


def _run_in_turn(
    client: Client,
    gather: RoundGather,
    shared: PyTree,
    partial: PyTree,
    inputs: PyTree,
    weights: Float[Array, " clients"],
) -> tuple[PyTree, Outputs]:
    def step(partial: PyTree, row: Any) -> tuple[PyTree, Outputs]:
        client_inputs, weight = row
        outputs = client(shared, client_inputs)
        uplinks = jax.tree.map(lambda leaf: leaf[None], outputs[0])
        return gather.add(shared, partial, uplinks, weight[None]), outputs

    return jax.lax.scan(step, partial, (inputs, weights))
