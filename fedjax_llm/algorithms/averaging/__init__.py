"""Methods whose server steps along a mean of the clients' differences or gradients."""

from .fed_avg import fed_avg
from .fed_dyn import fed_dyn
from .fed_exp import fed_exp
from .fed_nova import fed_nova
from .fed_prox import fed_prox
from .fed_sgd import fed_sgd
from .fl_trust import fl_trust
from .mime_lite import mime_lite
from .q_fed_avg import q_fed_avg
from .scaffold import scaffold

__all__ = [
    "fed_avg",
    "fed_dyn",
    "fed_exp",
    "fed_nova",
    "fed_prox",
    "fed_sgd",
    "fl_trust",
    "mime_lite",
    "q_fed_avg",
    "scaffold",
]
