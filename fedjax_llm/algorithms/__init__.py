"""Ways to train over many owners, each a `FederatedAlgorithm`."""

from .decomfl import decomfl as decomfl
from .demo import demo as demo
from .diloco import diloco as diloco
from .fed_avg import fed_avg as fed_avg
from .fed_dyn import fed_dyn as fed_dyn
from .fed_kseed import fed_kseed as fed_kseed
from .fed_mezo import fed_mezo as fed_mezo
from .fed_nova import fed_nova as fed_nova
from .fed_prox import fed_prox as fed_prox
from .fed_sb import fed_sb as fed_sb
from .fed_sgd import fed_sgd as fed_sgd
from .fedex_lora import fedex_lora as fedex_lora
from .fedsa_lora import fedsa_lora as fedsa_lora
from .feed_sign import feed_sign as feed_sign
from .ffa_lora import ffa_lora as ffa_lora
from .flasc import flasc as flasc
from .flexlora import flexlora as flexlora
from .flora import flora as flora
from .fwd_llm import fwd_llm as fwd_llm
from .hetlora import hetlora as hetlora
from .muloco import muloco as muloco
from .rolora import rolora as rolora
from .scaffold import scaffold as scaffold
from .sparse_loco import sparse_loco as sparse_loco
from .spry import spry as spry
from .streaming_diloco import streaming_diloco as streaming_diloco
