"""The methods of this family, with what each needs of a run."""

from collections.abc import Mapping

from ..contract import Method
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

_AVERAGING = ("client_optimizer", "server_optimizer", "uplink", "downlink")
METHODS: Mapping[str, Method] = {
    "fed_avg": Method(fed_avg, (*_AVERAGING, "population", "aggregate", "prediction")),
    "fed_dyn": Method(
        fed_dyn,
        ("client_optimizer", "population", "uplink", "downlink"),
    ),
    "fed_exp": Method(fed_exp, ("client_optimizer", "uplink", "downlink")),
    "fed_nova": Method(fed_nova, _AVERAGING),
    "fed_prox": Method(fed_prox, (*_AVERAGING, "population", "aggregate")),
    "fed_sgd": Method(fed_sgd, ("server_optimizer", "uplink", "downlink", "population")),
    "fl_trust": Method(fl_trust, (*_AVERAGING, "steps", "root")),
    "mime_lite": Method(mime_lite, ("uplink", "downlink")),
    "q_fed_avg": Method(q_fed_avg, ("client_optimizer", "uplink", "downlink")),
    "scaffold": Method(scaffold, (*_AVERAGING, "population")),
}
