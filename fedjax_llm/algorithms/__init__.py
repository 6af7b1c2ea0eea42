"""Ways to train over many owners, each a `FederatedAlgorithm`."""

from .fed_avg import fed_avg as fed_avg
from .fed_sb import fed_sb as fed_sb
from .fedex_lora import fedex_lora as fedex_lora
from .fedsa_lora import fedsa_lora as fedsa_lora
from .ffa_lora import ffa_lora as ffa_lora
from .flasc import flasc as flasc
from .flexlora import flexlora as flexlora
from .flora import flora as flora
from .hetlora import hetlora as hetlora
from .rolora import rolora as rolora
