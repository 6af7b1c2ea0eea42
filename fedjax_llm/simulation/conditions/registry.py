"""Conditions by name."""

from collections.abc import Callable, Mapping

from ...attacks.registry import ATTACKS
from .availability import diurnal, trace
from .deadline import deadline
from .faults import faults
from .network import link, links

CONDITIONS: Mapping[str, Mapping[str, Callable]] = {
    "faults": {"faults": faults},
    "link": {"link": link, "links": links},
    "deadline": {"deadline": deadline},
    "availability": {"diurnal": diurnal, "trace": trace},
    "attack": ATTACKS,
}
"""For each field of a run's configuration, the factories that it may name."""
