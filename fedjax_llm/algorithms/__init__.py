"""Ways to train over many owners, each a `FederatedAlgorithm`."""

from .cocktail_sgd import cocktail_sgd as cocktail_sgd
from .demo import demo as demo
from .diloco import diloco as diloco
from .fed_avg import fed_avg as fed_avg
from .fed_dyn import fed_dyn as fed_dyn
from .fed_nova import fed_nova as fed_nova
from .fed_prox import fed_prox as fed_prox
from .fed_sgd import fed_sgd as fed_sgd
from .muloco import muloco as muloco
from .scaffold import scaffold as scaffold
from .sparse_loco import sparse_loco as sparse_loco
from .streaming_diloco import streaming_diloco as streaming_diloco
