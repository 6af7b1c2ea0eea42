"""Language models in Flax NNX, and their configs and tensors in the Hugging Face layout."""

from .config import DecoderConfig, LinearScaling, Llama3Scaling
from .decoder import Cache, Decoder, from_params
from .encoder import Classifier, Encoder, EncoderConfig, mean_pool
from .generate import Generated, generate
from .hf_config import config_from, config_to
from .hf_encoder import encoder_config_from, encoder_config_to, hf_encoder_tensors, load_encoder
from .hf_tensors import hf_tensors, load_tensors
from .params import filled
from .pretrained import Pretrained, load, save

__all__ = [
    "Cache",
    "Classifier",
    "Decoder",
    "DecoderConfig",
    "Encoder",
    "EncoderConfig",
    "Generated",
    "LinearScaling",
    "Llama3Scaling",
    "Pretrained",
    "config_from",
    "config_to",
    "encoder_config_from",
    "encoder_config_to",
    "filled",
    "from_params",
    "generate",
    "hf_encoder_tensors",
    "hf_tensors",
    "load",
    "load_encoder",
    "load_tensors",
    "mean_pool",
    "save",
]
