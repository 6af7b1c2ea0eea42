"""Communication-efficient federated training of language models in JAX."""

from .adapters import full as full
from .adapters import lora as lora
from .aggregators.contract import Aggregator as Aggregator
from .aggregators.weighted_mean import weighted_mean as weighted_mean
from .algorithm import FederatedAlgorithm as FederatedAlgorithm
from .algorithm import Gather as Gather
from .algorithms.averaging import fed_avg as fed_avg
from .models import Decoder as Decoder
from .models import DecoderConfig as DecoderConfig
from .tasks import Task as Task
from .tasks import classification as classification
from .tasks import language_model as language_model
from .tasks import preference as preference
