"""Federated methods without a backward pass: clients evaluate losses or forward derivatives."""

from .decomfl import decomfl
from .fed_bpt import fed_bpt
from .fed_kseed import fed_kseed
from .fed_mezo import fed_mezo
from .feed_sign import feed_sign
from .fwd_llm import fwd_llm
from .spry import spry

__all__ = ["decomfl", "fed_bpt", "fed_kseed", "fed_mezo", "feed_sign", "fwd_llm", "spry"]
