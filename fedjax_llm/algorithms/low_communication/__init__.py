"""Methods that communicate rarely, or send a fraction of each update."""

from .cocktail_sgd import cocktail_sgd
from .demo import demo
from .diloco import diloco
from .muloco import muloco
from .sparse_loco import sparse_loco
from .streaming_diloco import streaming_diloco

__all__ = ["cocktail_sgd", "demo", "diloco", "muloco", "sparse_loco", "streaming_diloco"]
