"""Quantisers: codecs that send every entry in fewer bits."""

from .bfloat16 import bfloat16
from .blockwise import blockwise_int, mxfp4, nf4
from .dithered import dithered
from .eden import drive, eden
from .fixed_point import fixed_point
from .fp8 import fp8
from .natural import natural
from .qsgd import qsgd
from .sign import sign
from .stochastic_mask import stochastic_mask
from .stochastic_quantize import stochastic_quantize
from .terngrad import terngrad
from .trellis_fixed import trellis_fixed

__all__ = [
    "bfloat16",
    "blockwise_int",
    "dithered",
    "drive",
    "eden",
    "fixed_point",
    "fp8",
    "mxfp4",
    "natural",
    "nf4",
    "qsgd",
    "sign",
    "stochastic_mask",
    "stochastic_quantize",
    "terngrad",
    "trellis_fixed",
]
