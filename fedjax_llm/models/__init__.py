"""Language models in Flax NNX, and the Hugging Face names of their parts."""

from .config import DecoderConfig as DecoderConfig
from .config import LinearScaling as LinearScaling
from .config import Llama3Scaling as Llama3Scaling
from .decoder import Cache as Cache
from .decoder import Decoder as Decoder
from .decoder import from_params as from_params
from .encoder import Classifier as Classifier
from .encoder import Encoder as Encoder
from .encoder import EncoderConfig as EncoderConfig
from .encoder import mean_pool as mean_pool
from .generate import Generated as Generated
from .generate import generate as generate
from .hf_config import config_from as config_from
from .hf_config import config_to as config_to
from .hf_encoder import encoder_config_from as encoder_config_from
from .hf_encoder import encoder_config_to as encoder_config_to
from .hf_encoder import hf_encoder_tensors as hf_encoder_tensors
from .hf_encoder import load_encoder as load_encoder
from .hf_tensors import hf_tensors as hf_tensors
from .hf_tensors import load_tensors as load_tensors
from .params import filled as filled
from .pretrained import Pretrained as Pretrained
from .pretrained import load as load
from .pretrained import save as save
