"""Sweeps over codecs, and what they show."""

from .figure import draw
from .front import BYTES, SECONDS, Cost, Point, cost_of, pareto_front, points
from .sweep import CODECS, QUICK_CODECS, configurations, sweep
from .table import table

__all__ = [
    "BYTES",
    "CODECS",
    "QUICK_CODECS",
    "SECONDS",
    "Cost",
    "Point",
    "configurations",
    "cost_of",
    "draw",
    "pareto_front",
    "points",
    "sweep",
    "table",
]
