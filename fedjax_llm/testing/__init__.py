"""The contracts of algorithms and aggregators as checks that anyone can call on their own."""

from fedjax_compression.testing import ContractError as ContractError

from .aggregators import check_aggregator as check_aggregator
from .algorithms import ALGORITHM_PROMISES as ALGORITHM_PROMISES
from .algorithms import AlgorithmTrial as AlgorithmTrial
from .algorithms import check_algorithm as check_algorithm
