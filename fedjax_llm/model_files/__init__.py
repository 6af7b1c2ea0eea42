"""Model files in the Hugging Face layout: safetensors folders, GGUF files, the hub."""

from .byte_tokenizer import ByteTokenizer
from .contract import LazyTensor, ModelFiles
from .gguf_llama import open_gguf
from .opening import open_model_files
from .packaged import minilm, smollm2
from .safetensors_reader import read_safetensors, read_sharded_safetensors
from .safetensors_writer import write_safetensors

__all__ = [
    "ByteTokenizer",
    "LazyTensor",
    "ModelFiles",
    "minilm",
    "open_gguf",
    "open_model_files",
    "read_safetensors",
    "read_sharded_safetensors",
    "smollm2",
    "write_safetensors",
]
