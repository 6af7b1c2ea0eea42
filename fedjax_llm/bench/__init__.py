"""Measurements of speed, and of codecs."""

from .codecs import measure, rate_distortion_table, sources
from .codecs_figure import draw_codecs
from .cohorts import cohorts, mean_table, measure_means
from .rounds import LADDER, bench, bench_table

__all__ = [
    "LADDER",
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
