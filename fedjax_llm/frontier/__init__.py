"""Sweeps over codecs, and what they show."""

from .figure import draw as draw
from .pareto import BYTES as BYTES
from .pareto import SECONDS as SECONDS
from .pareto import Cost as Cost
from .pareto import Point as Point
from .pareto import cost_of as cost_of
from .pareto import pareto_front as pareto_front
from .pareto import points as points
from .rate_distortion import measure as measure
from .rate_distortion import rate_distortion_table as rate_distortion_table
from .rate_distortion import sources as sources
from .rate_distortion_figure import draw_rate_distortion as draw_rate_distortion
from .sweep import CODECS as CODECS
from .sweep import QUICK_CODECS as QUICK_CODECS
from .sweep import configurations as configurations
from .sweep import sweep as sweep
from .table import table as table
