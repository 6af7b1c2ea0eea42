"""Studies: lists of runs, their points, Pareto fronts, tables and pictures."""

from .costs import BOTH, BYTES, COSTS, DOWNLINK, SECONDS, Cost, cost_in, cost_of, cost_to
from .figure import draw
from .front import pareto_front, significant_front
from .frontier import frontier
from .intervals import interval
from .points import Point, common_notes, points
from .sweep import CODECS, QUICK_CODECS, configurations, sweep
from .table import table

__all__ = [
    "BOTH",
    "BYTES",
    "CODECS",
    "COSTS",
    "DOWNLINK",
    "QUICK_CODECS",
    "SECONDS",
    "Cost",
    "Point",
    "common_notes",
    "configurations",
    "cost_in",
    "cost_of",
    "cost_to",
    "draw",
    "frontier",
    "interval",
    "pareto_front",
    "points",
    "significant_front",
    "sweep",
    "table",
]
