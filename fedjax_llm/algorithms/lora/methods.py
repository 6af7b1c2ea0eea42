"""The registry rows of this family: each method with what it needs of a run."""

from collections.abc import Mapping

from ..contract import Method
from .fed_sb import check_start as check_fed_sb
from .fed_sb import fed_sb
from .fedex_lora import fedex_lora
from .fedsa_lora import fedsa_lora
from .ffa_lora import ffa_lora
from .flasc import flasc
from .flexlora import flexlora
from .flora import flora
from .flora_ranks import flora_ranks
from .hetlora import hetlora
from .rolora import rolora

_AVERAGING = ("client_optimizer", "server_optimizer", "uplink", "downlink")
METHODS: Mapping[str, Method] = {
    "fed_sb": Method(fed_sb, (*_AVERAGING, "population"), check_start=check_fed_sb),
    "fedex_lora": Method(fedex_lora, ("client_optimizer", "scale", "clients", "uplink")),
    "fedsa_lora": Method(fedsa_lora, (*_AVERAGING, "population")),
    "ffa_lora": Method(ffa_lora, (*_AVERAGING, "population")),
    "flasc": Method(flasc, ("client_optimizer", "server_optimizer")),
    "flexlora": Method(flexlora, ("client_optimizer", "downlink")),
    "flora": Method(flora, ("client_optimizer", "scale", "clients", "uplink")),
    "flora_ranks": Method(flora_ranks, ("client_optimizer", "scale", "clients")),
    "hetlora": Method(hetlora, ("client_optimizer", "downlink")),
    "rolora": Method(rolora, ("client_optimizer",)),
}
