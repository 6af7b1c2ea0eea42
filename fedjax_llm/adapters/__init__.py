"""Adapters: which parameters of a model are trained, and which are added for that."""

from .bitfit import bitfit
from .bottleneck import bottleneck
from .contract import Adapted, Adapter, Added, adapt, full
from .head_only import head_only
from .ia3 import ia3
from .layers import layers
from .lora import dora, lora, rslora
from .merging import merge_adapter
from .mixed_ranks import resize_rank
from .peft_export import export_adapter
from .peft_import import import_adapter
from .prefix_tuning import prefix_tuning
from .prompt_tuning import prompt_tuning
from .quantized import int8_base, nf4_base
from .seeds import seeds

__all__ = [
    "Adapted",
    "Adapter",
    "Added",
    "adapt",
    "bitfit",
    "bottleneck",
    "dora",
    "export_adapter",
    "full",
    "head_only",
    "ia3",
    "import_adapter",
    "int8_base",
    "layers",
    "lora",
    "merge_adapter",
    "nf4_base",
    "prefix_tuning",
    "prompt_tuning",
    "resize_rank",
    "rslora",
    "seeds",
]
