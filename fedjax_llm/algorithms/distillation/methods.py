"""The methods of this family, with what each needs of a run."""

from collections.abc import Mapping

from ..contract import Method
from .fed_md import fed_md

METHODS: Mapping[str, Method] = {
    "fed_md": Method(
        fed_md, ("client_optimizer", "uplink", "downlink", "logits", "vocab", "public")
    ),
}
