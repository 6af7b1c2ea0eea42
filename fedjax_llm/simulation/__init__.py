"""Federations on one device, on several, or on many hosts."""

from .auto import CLIENT_AXES as CLIENT_AXES
from .auto import Auto as Auto
from .auto import Timed as Timed
from .auto import auto as auto
from .auto import candidates as candidates
from .auto import fastest as fastest
from .client_axis import ClientAxis as ClientAxis
from .client_axis import chunked as chunked
from .client_axis import scan as scan
from .client_axis import vmap as vmap
from .programs import round_program as round_program
from .sharded import sharded as sharded
from .simulate import Progress as Progress
from .simulate import Round as Round
from .simulate import simulate as simulate
from .split_rounds import simulate_split as simulate_split
from .split_rounds import split_entries as split_entries
from .store import ClientStore as ClientStore
from .store import StoreRows as StoreRows
