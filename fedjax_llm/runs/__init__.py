"""A run from a configuration: read, built, executed, kept in a folder and judged."""

from .config import RunConfig as RunConfig
from .config import canonical as canonical
from .execute import deliver as deliver
from .execute import execute as execute
from .execute import execute_together as execute_together
from .execute import rounds as rounds
from .execute import settled as settled
from .folder import opened as opened
from .prepare import Run as Run
from .prepare import prepare as prepare
from .quality import Row as Row
from .quality import beside as beside
from .rows import versions as versions
from .stopping import locked as locked
