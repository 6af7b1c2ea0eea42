"""Sweeps over codecs: runs, points, Pareto fronts, tables, pictures and report pages."""

from .figure import draw
from .front import BYTES, SECONDS, Cost, Point, cost_of, pareto_front, points
from .frontier import frontier
from .report import report
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
    "frontier",
    "pareto_front",
    "points",
    "report",
    "sweep",
    "table",
]
