"""Federated training methods: each factory builds a `FederatedAlgorithm` or a `SplitMethod`."""

from . import averaging, distillation, lora, low_communication, personal, split, zeroth_order
from .averaging import *  # noqa: F403
from .distillation import *  # noqa: F403
from .lora import *  # noqa: F403
from .low_communication import *  # noqa: F403
from .personal import *  # noqa: F403
from .split import *  # noqa: F403
from .zeroth_order import *  # noqa: F403

__all__: list[str] = []
__all__ += averaging.__all__
__all__ += distillation.__all__
__all__ += lora.__all__
__all__ += low_communication.__all__
__all__ += personal.__all__
__all__ += split.__all__
__all__ += zeroth_order.__all__
