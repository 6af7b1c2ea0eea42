"""The algorithms by name, and what is to be known of each to build it from a configuration."""

import inspect
from collections.abc import Callable, Mapping

from .. import algorithms

ALGORITHMS: Mapping[str, Callable] = {
    factory.__name__: factory
    for factory in (
        algorithms.cocktail_sgd,
        algorithms.decomfl,
        algorithms.demo,
        algorithms.diloco,
        algorithms.ditto,
        algorithms.fed_avg,
        algorithms.fed_bpt,
        algorithms.fed_dyn,
        algorithms.fed_exp,
        algorithms.fed_kseed,
        algorithms.fed_md,
        algorithms.fed_mezo,
        algorithms.fed_nova,
        algorithms.fed_prox,
        algorithms.fed_rep,
        algorithms.fed_sb,
        algorithms.fed_sgd,
        algorithms.fedex_lora,
        algorithms.fedsa_lora,
        algorithms.feed_sign,
        algorithms.ffa_lora,
        algorithms.flasc,
        algorithms.flexlora,
        algorithms.flora,
        algorithms.fwd_llm,
        algorithms.hetlora,
        algorithms.mime_lite,
        algorithms.muloco,
        algorithms.q_fed_avg,
        algorithms.rolora,
        algorithms.scaffold,
        algorithms.sparse_loco,
        algorithms.split_lora,
        algorithms.spry,
        algorithms.streaming_diloco,
    )
}
"""Every method."""
FLAGS = {
    "client_optimizer": None,
    "server_optimizer": None,
    "uplink": "identity()",
    "downlink": "identity()",
    "prediction": 0.0,
}
"""What an algorithm may take from a configuration, and what stands for nothing there."""
OWN_SERVER_STEP = ("diloco", "fwd_llm", "muloco", "spry", "streaming_diloco")
"""Algorithms with a server optimizer of their own, which is theirs unless one is given."""
BY_ESTIMATES = ("decomfl", "fed_kseed", "fed_mezo", "feed_sign")
"""Algorithms whose clients step along estimates of two evaluations: SGD at a rate that bears them
unless an optimizer is given."""
SLOPES = ("decomfl", "fed_kseed", "feed_sign", "fwd_llm", "spry")
"""Algorithms whose clients send slopes along seeded directions, and nothing that grows with the
model."""
FORWARDS = ("fwd_llm", "spry")
"""Algorithms whose clients differentiate forwards (`jax.jvp`)."""
FROM_A_SPREAD = ("fed_bpt",)
"""Algorithms that move parameters in proportion to how these differ from each other at first."""
EVERY_ROUND = ("cocktail_sgd", "fedex_lora", "flora", "rolora", "streaming_diloco")
"""Algorithms whose clients must take part in every round."""

ALL_AT_ONCE = ("split_lora",)
"""Algorithms whose clients and server meet in every step, so that a round's clients run at once."""
BUFFERED = (
    "diloco",
    "ditto",
    "fed_avg",
    "fed_mezo",
    "fed_nova",
    "fed_prox",
    "fed_rep",
    "fed_sgd",
    "muloco",
    "sparse_loco",
)
"""Algorithms whose clients send a difference or a gradient, which a server that has gone on can
still add."""


def takes(method: str, flag: str) -> bool:
    """Whether a method takes what a flag names; one that is not there takes anything."""
    factory = ALGORITHMS.get(method)
    return factory is None or flag in inspect.signature(factory).parameters
