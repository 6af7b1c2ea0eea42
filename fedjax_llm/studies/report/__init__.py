"""The report: a folder of results as one page that needs nothing else."""

from .data import page_data
from .page import render
from .write import report

__all__ = ["page_data", "render", "report"]
