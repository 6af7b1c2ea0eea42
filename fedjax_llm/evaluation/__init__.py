"""What is measured of a model, client by client, and what it stands beside."""

from .baselines import Baseline as Baseline
from .baselines import Baselines as Baselines
from .baselines import baselines as baselines
from .by_client import ByClient as ByClient
from .by_client import Distribution as Distribution
from .by_client import by_client as by_client
from .by_client import by_own_model as by_own_model
from .by_client import distribution as distribution
from .generations import Answered as Answered
from .generations import answer as answer
from .generations import scored as scored
from .options import option_accuracy as option_accuracy
from .overlap import exact_match as exact_match
from .overlap import rouge_l as rouge_l
from .per_byte import per_byte as per_byte
from .per_byte import token_bytes as token_bytes
