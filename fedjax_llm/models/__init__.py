"""Language models in Flax NNX, and the Hugging Face names of their parts."""

from .config import DecoderConfig as DecoderConfig
from .config import LinearScaling as LinearScaling
from .config import Llama3Scaling as Llama3Scaling
from .decoder import Cache as Cache
from .decoder import Decoder as Decoder
from .decoder import from_params as from_params
from .generate import Generated as Generated
from .generate import generate as generate
from .hf_config import config_from as config_from
from .hf_config import config_to as config_to
from .hf_tensors import hf_tensors as hf_tensors
from .hf_tensors import load_tensors as load_tensors
