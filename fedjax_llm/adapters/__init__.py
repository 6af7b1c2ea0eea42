"""What of a model is trained, and what is added to it for that."""

from .adapter import Adapted as Adapted
from .adapter import Adapter as Adapter
from .adapter import Added as Added
from .adapter import adapt as adapt
from .adapter import full as full
from .bitfit import bitfit as bitfit
from .bottleneck import bottleneck as bottleneck
from .ia3 import ia3 as ia3
from .layers import layers as layers
from .lora import dora as dora
from .lora import lora as lora
from .lora import rslora as rslora
from .merging import merge_adapter as merge_adapter
from .mixed_ranks import resize_rank as resize_rank
from .peft_export import export_adapter as export_adapter
from .peft_import import import_adapter as import_adapter
from .prefix_tuning import prefix_tuning as prefix_tuning
from .prompt_tuning import prompt_tuning as prompt_tuning
from .quantized import int8_base as int8_base
from .quantized import nf4_base as nf4_base
from .seeds import seeds as seeds
