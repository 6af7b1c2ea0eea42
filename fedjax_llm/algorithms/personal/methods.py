"""The methods of this family, with what each needs of a run."""

from collections.abc import Mapping

from ..contract import Method
from .ditto import ditto
from .fed_rep import fed_rep

_AVERAGING = ("client_optimizer", "server_optimizer", "uplink", "downlink")
METHODS: Mapping[str, Method] = {
    "ditto": Method(ditto, (*_AVERAGING, "population", "aggregate")),
    "fed_rep": Method(fed_rep, (*_AVERAGING, "population")),
}
