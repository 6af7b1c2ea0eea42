"""Federations on one device."""

from .client_axis import CLIENT_AXES as CLIENT_AXES
from .client_axis import ClientAxis as ClientAxis
from .client_axis import chunked as chunked
from .client_axis import scan as scan
from .client_axis import vmap as vmap
from .programs import round_program as round_program
from .simulate import Progress as Progress
from .simulate import Round as Round
from .simulate import simulate as simulate
from .store import ClientStore as ClientStore
from .store import StoreRows as StoreRows
