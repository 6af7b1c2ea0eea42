"""The built-in adapters by name, as the `adapter` text of a run spells them."""

from collections.abc import Callable, Mapping

from .bitfit import bitfit
from .bottleneck import bottleneck
from .contract import full
from .head_only import head_only
from .ia3 import ia3
from .layers import layers
from .lora import dora, lora, rslora
from .peft_import import import_adapter
from .prefix_tuning import prefix_tuning
from .prompt_tuning import prompt_tuning
from .quantized import int8_base, nf4_base
from .seeds import seeds

ADAPTERS: Mapping[str, Callable] = {
    factory.__name__: factory
    for factory in (
        bitfit,
        bottleneck,
        dora,
        full,
        head_only,
        ia3,
        import_adapter,
        int8_base,
        layers,
        lora,
        nf4_base,
        prefix_tuning,
        prompt_tuning,
        rslora,
        seeds,
    )
}
"""Factory by name. To add an adapter to the command line, add its factory."""
