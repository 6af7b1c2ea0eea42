"""Measurements of speed, and of codecs."""

from .codecs import measure, rate_distortion_table, sources
from .codecs_figure import draw_rate_distortion
from .rounds import LADDER, bench, bench_table

__all__ = [
    "LADDER",
    "bench",
    "bench_table",
    "draw_rate_distortion",
    "measure",
    "rate_distortion_table",
    "sources",
]
