"""A run from a configuration: read, built, executed, kept in a folder and judged."""

from .config import RunConfig as RunConfig
from .config import canonical as canonical
from .execute import execute as execute
from .prepare import Run as Run
from .prepare import prepare as prepare
from .quality import Row as Row
