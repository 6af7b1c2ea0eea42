"""The registry rows of this family: each method with what it needs of a run."""

from collections.abc import Mapping

from ..contract import Method
from .decomfl import decomfl
from .fed_bpt import check_start as check_fed_bpt
from .fed_bpt import fed_bpt
from .fed_kseed import fed_kseed
from .fed_mezo import fed_mezo
from .feed_sign import feed_sign
from .fwd_llm import fwd_llm
from .spry import spry

METHODS: Mapping[str, Method] = {
    "decomfl": Method(
        decomfl,
        ("client_optimizer", "steps", "window"),
        small_steps=True,
        sends_slopes=True,
    ),
    "fed_bpt": Method(fed_bpt, check_start=check_fed_bpt),
    "fed_kseed": Method(fed_kseed, ("client_optimizer",), small_steps=True, sends_slopes=True),
    "fed_mezo": Method(
        fed_mezo,
        (
            "client_optimizer",
            "server_optimizer",
            "uplink",
            "downlink",
            "population",
            "aggregate",
        ),
        small_steps=True,
    ),
    "feed_sign": Method(
        feed_sign, ("client_optimizer", "window"), small_steps=True, sends_slopes=True
    ),
    "fwd_llm": Method(
        fwd_llm,
        ("server_optimizer", "downlink"),
        own_server_optimizer=True,
        sends_slopes=True,
        forward_mode=True,
    ),
    "spry": Method(
        spry,
        ("server_optimizer", "downlink"),
        own_server_optimizer=True,
        sends_slopes=True,
        forward_mode=True,
    ),
}
