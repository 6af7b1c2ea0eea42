"""What of a model is trained, and what is added to it for that."""

from .adapter import Adapted as Adapted
from .adapter import Adapter as Adapter
from .adapter import adapt as adapt
from .adapter import full as full
from .lora import lora as lora
