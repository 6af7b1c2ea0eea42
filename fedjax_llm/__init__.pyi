"""Communication-efficient federated training of language models in JAX."""

from . import models as models
from .adapters import export_adapter as export_adapter
from .adapters import full as full
from .adapters import lora as lora
from .adapters import merge_adapter as merge_adapter
from .aggregators import Aggregator as Aggregator
from .aggregators import weighted_mean as weighted_mean
from .algorithm import ClientInfo as ClientInfo
from .algorithm import FederatedAlgorithm as FederatedAlgorithm
from .algorithm import Gather as Gather
from .algorithm import ServerInfo as ServerInfo
from .algorithm import SplitMethod as SplitMethod
from .algorithms import fed_avg as fed_avg
from .algorithms.contract import Method as Method
from .client_training import full_gradient as full_gradient
from .client_training import local_steps as local_steps
from .client_training import local_steps_with_state as local_steps_with_state
from .data import Batching as Batching
from .data import ClientData as ClientData
from .data import byte_corpus as byte_corpus
from .data import hold_out as hold_out
from .data import tokenize as tokenize
from .ledger import total_bytes as total_bytes
from .models import Decoder as Decoder
from .models import DecoderConfig as DecoderConfig
from .runs import Named as Named
from .runs import RunConfig as RunConfig
from .simulation import ClientStore as ClientStore
from .simulation import Conditions as Conditions
from .simulation import Round as Round
from .simulation import Snapshot as Snapshot
from .simulation import chunked as chunked
from .simulation import scan as scan
from .simulation import sharded as sharded
from .simulation import simulate as simulate
from .simulation import vmap as vmap
from .studies import frontier as frontier
from .tasks import Task as Task
from .tasks import classification as classification
from .tasks import language_model as language_model
from .tasks import preference as preference

__version__: str
