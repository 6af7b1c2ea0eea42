"""Studies: lists of runs, their points, Pareto fronts, tables, pictures and report pages."""

from .costs import BOTH, BYTES, COSTS, DOWNLINK, SECONDS, Cost, cost_in, cost_of, cost_to
from .figure import draw
from .front import pareto_front, significant_front
from .frontier import frontier
from .intervals import interval
from .points import Point, common_notes, points
from .report import report
from .results import results
from .study import Study, finished_rows, run_study
from .sweep import CODECS, QUICK_CODECS, configurations, sweep
from .table import table
from .tuning import Tuned, Tuning, successive_halving, tuned

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
    "Study",
    "Tuned",
    "Tuning",
    "common_notes",
    "configurations",
    "cost_in",
    "cost_of",
    "cost_to",
    "draw",
    "finished_rows",
    "frontier",
    "interval",
    "pareto_front",
    "points",
    "report",
    "results",
    "run_study",
    "significant_front",
    "successive_halving",
    "sweep",
    "table",
    "tuned",
]
