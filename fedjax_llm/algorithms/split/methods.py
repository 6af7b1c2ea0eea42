"""The methods of this family, with what each needs of a run."""

from collections.abc import Mapping

from ..contract import Method
from .split_lora import split_lora

METHODS: Mapping[str, Method] = {
    "split_lora": Method(
        split_lora, ("client_optimizer", "uplink", "downlink", "halves", "vocab"), split=True
    ),
}
