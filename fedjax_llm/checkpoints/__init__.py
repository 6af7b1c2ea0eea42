"""Models on disk in the Hugging Face view: safetensors, GGUF, the hub."""

from .checkpoint import Checkpoint as Checkpoint
from .checkpoint import LazyTensor as LazyTensor
from .gguf_llama import open_gguf as open_gguf
from .opening import open_checkpoint as open_checkpoint
from .packaged import minilm as minilm
from .packaged import smollm2 as smollm2
from .safetensors_reader import read_safetensors as read_safetensors
from .safetensors_reader import read_sharded_safetensors as read_sharded_safetensors
from .safetensors_writer import write_safetensors as write_safetensors
