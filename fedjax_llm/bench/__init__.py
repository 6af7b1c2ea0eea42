"""Measurements of speed, and of codecs."""

from .against_torch import against_table, against_torch
from .codecs import measure, rate_distortion_table, sources
from .codecs_figure import draw_codecs
from .cohorts import cohorts, mean_table, measure_means
from .rounds import LADDER, bench, bench_table
from .works import WORKS, Work

__all__ = [
    "LADDER",
    "WORKS",
    "Work",
    "against_table",
    "against_torch",
    "bench",
    "bench_table",
    "cohorts",
    "draw_codecs",
    "mean_table",
    "measure",
    "measure_means",
    "rate_distortion_table",
    "sources",
]
