"""The methods of this family, with what each needs of a run."""

from collections.abc import Mapping

from ..contract import Method
from .cocktail_sgd import cocktail_sgd
from .demo import demo
from .diloco import diloco
from .muloco import muloco
from .sparse_loco import sparse_loco
from .streaming_diloco import streaming_diloco

_AVERAGING = ("client_optimizer", "server_optimizer", "uplink", "downlink")
METHODS: Mapping[str, Method] = {
    "cocktail_sgd": Method(cocktail_sgd, ("client_optimizer",)),
    "demo": Method(demo, ("downlink",)),
    "diloco": Method(diloco, (*_AVERAGING, "population"), own_server_optimizer=True),
    "muloco": Method(muloco, ("server_optimizer", "downlink"), own_server_optimizer=True),
    "sparse_loco": Method(sparse_loco, ("client_optimizer", "downlink")),
    "streaming_diloco": Method(streaming_diloco, _AVERAGING, own_server_optimizer=True),
}
