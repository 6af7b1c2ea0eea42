"""Compressed updates: update -> payload -> bytes -> update."""

from . import entropy, projections, quantizers, sparsifiers, wire, wrappers
from .contract import Compressor, Summable, has_receiver_memory, payload_structure
from .entropy import *  # noqa: F403
from .projections import *  # noqa: F403
from .quantizers import *  # noqa: F403
from .registry import codec, register
from .sparsifiers import *  # noqa: F403
from .wire import Prefix, Symbols, TrellisSymbols, WireError
from .wrappers import *  # noqa: F403

__all__ = [
    "Compressor",
    "Prefix",
    "Summable",
    "Symbols",
    "TrellisSymbols",
    "WireError",
    "codec",
    "has_receiver_memory",
    "payload_structure",
    "register",
    "wire",
]
__all__ += entropy.__all__
__all__ += projections.__all__
__all__ += quantizers.__all__
__all__ += sparsifiers.__all__
__all__ += wrappers.__all__
