"""Compressed updates: update -> payload -> bytes -> update."""

from . import wire as wire
from .chunked_top_k import chunked_top_k as chunked_top_k
from .codec import codec as codec
from .compressor import Compressor as Compressor
from .compressor import chain as chain
from .compressor import identity as identity
from .compressor import payload_structure as payload_structure
from .count_sketch import count_sketch as count_sketch
from .dct_top_k import dct_top_k as dct_top_k
from .dgc import dgc as dgc
from .eden import eden as eden
from .error_feedback import error_feedback as error_feedback
from .power_sgd import power_sgd as power_sgd
from .quantize import stochastic_quantize as stochastic_quantize
from .random_k import random_k as random_k
from .random_subspace import random_subspace as random_subspace
from .sparse_ternary import sparse_ternary as sparse_ternary
from .threshold import threshold as threshold
from .top_k import top_k as top_k
from .wire import WireError as WireError
