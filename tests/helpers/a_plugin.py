"""Codecs, a method, an aggregator and data of one's own, as `--plugin` imports them."""

import jax
import optax
from fedjax_compression import Compressor
from fedjax_compression import register as register_codec

from fedjax_llm import Method
from fedjax_llm.aggregators import weighted_mean
from fedjax_llm.aggregators.registry import register as register_aggregator
from fedjax_llm.algorithms.registry import register as register_method
from fedjax_llm.algorithms.shared import averaging, fresh_optimizer
from fedjax_llm.data import Example
from fedjax_llm.data.registry import register as register_data


def half(*, dtype: str = "float16") -> Compressor:
    """Send every entry as a 16-bit float."""
    return Compressor(
        init=lambda like: (),
        encode=lambda key, update, state: (jax.tree.map(lambda x: x.astype(dtype), update), state),
        decode=lambda payload, like: jax.tree.map(lambda x, y: x.astype(y.dtype), payload, like),
    )


def small_server_steps(loss, like, *, client_optimizer, uplink=None, steps=3, scale=1.0):
    """FedAvg whose server takes a smaller step. `steps` and `scale` are its own, not the run's."""
    assert (steps, scale) in ((3, 1.0), (5, 2.0)), "the run passed what was not declared"
    return averaging(
        fresh_optimizer(loss, client_optimizer, like),
        like,
        who="small_server_steps",
        server_optimizer=optax.sgd(scale / steps),
        uplink=uplink,
        downlink=None,
    )


def notes(*, copies: int = 40):
    """Four people's notes."""
    return {name: [Example(f"{name} writes. " * copies, source=name)] for name in "abcd"}


register_codec("half", half)
register_method(
    "small_server_steps", Method(small_server_steps, needs=("client_optimizer", "uplink"))
)
register_aggregator("plain_mean", weighted_mean)
register_data("notes", notes)
