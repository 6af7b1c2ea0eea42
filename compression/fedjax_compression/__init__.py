"""Compressed updates: update -> payload -> bytes -> update."""

from . import wire as wire
from .blockwise import blockwise_int as blockwise_int
from .blockwise import mxfp4 as mxfp4
from .blockwise import nf4 as nf4
from .codec import codec as codec
from .compressor import Compressor as Compressor
from .compressor import chain as chain
from .compressor import identity as identity
from .compressor import payload_structure as payload_structure
from .eden import eden as eden
from .entropy_coded import entropy_coded as entropy_coded
from .error_feedback import error_feedback as error_feedback
from .fp8 import fp8 as fp8
from .natural import natural as natural
from .qsgd import qsgd as qsgd
from .quantize import stochastic_quantize as stochastic_quantize
from .rotated import rotated as rotated
from .sign import sign as sign
from .symbols import Symbols as Symbols
from .terngrad import terngrad as terngrad
from .top_k import top_k as top_k
from .trellis_fixed import trellis_fixed as trellis_fixed
from .unbiased_scale import unbiased_scale as unbiased_scale
from .wire import WireError as WireError
