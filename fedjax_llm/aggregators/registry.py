"""Aggregators by name: those of this package and those that a user registers."""

from collections.abc import Callable

from fedjax_compression.checks import check_function, check_new_name

from .adaptive_dp_fed_avg import adaptive_dp_fed_avg
from .banded_dp_fed_avg import banded_dp_fed_avg
from .bucketing import bucketing
from .bulyan import bulyan
from .centered_clipping import centered_clipping
from .contract import Aggregator
from .distributed_dp import distributed_dp
from .dnc import dnc
from .dp_fed_avg import dp_fed_avg
from .flame import flame
from .fools_gold import fools_gold
from .krum import krum, multi_krum
from .local_dp import local_dp
from .mean import mean
from .median import median
from .nearest_neighbor_mixing import nearest_neighbor_mixing
from .norm_bound import norm_bound
from .rfa import rfa
from .secure_mean import secure_mean
from .sign_majority import sign_majority
from .trimmed_mean import trimmed_mean
from .weighted_mean import weighted_mean

AGGREGATORS: dict[str, Callable[..., Aggregator]] = {
    "adaptive_dp_fed_avg": adaptive_dp_fed_avg,
    "banded_dp_fed_avg": banded_dp_fed_avg,
    "bucketing": bucketing,
    "bulyan": bulyan,
    "centered_clipping": centered_clipping,
    "distributed_dp": distributed_dp,
    "dnc": dnc,
    "dp_fed_avg": dp_fed_avg,
    "flame": flame,
    "fools_gold": fools_gold,
    "krum": krum,
    "local_dp": local_dp,
    "mean": mean,
    "median": median,
    "multi_krum": multi_krum,
    "nearest_neighbor_mixing": nearest_neighbor_mixing,
    "norm_bound": norm_bound,
    "rfa": rfa,
    "secure_mean": secure_mean,
    "sign_majority": sign_majority,
    "trimmed_mean": trimmed_mean,
    "weighted_mean": weighted_mean,
}
"""Every rule that a run's `aggregate` can name: those of this package and those of `register`."""


def register(name: str, factory: Callable[..., Aggregator]) -> None:
    """Let a run's `aggregate` name a rule of your own, such as `"mine(share=0.1)"`.

    Args:
        name: The name, a Python identifier that no other rule has. Registering the same factory
            again is allowed.
        factory: `(**arguments) -> Aggregator`.

    Raises:
        TypeError: For a name that is not a text, and for a factory that cannot be called.
        ValueError: For a name that is not an identifier, or that another rule has.

    Example:
        >>> from fedjax_llm import weighted_mean
        >>> from fedjax_llm.aggregators.registry import AGGREGATORS, register
        >>> def mine():
        ...     return weighted_mean()
        >>> register("mine", mine)
        >>> AGGREGATORS.pop("mine") is mine  # removed, so that this example leaves nothing behind
        True

    """
    check_function(factory, who="register", name="factory", signature="that returns an Aggregator")
    check_new_name(name, factory, AGGREGATORS)
    AGGREGATORS[name] = factory
