"""Simulates a federation on one device, on several devices, or on many hosts."""

from .client_axes.auto import Auto, Timed, auto, candidates, fastest
from .client_axes.contract import ClientAxis
from .client_axes.on_one_device import chunked, scan, vmap
from .client_axes.registry import CLIENT_AXES
from .client_axes.sharded import sharded
from .conditions.availability import Availability, Windows, diurnal, trace
from .conditions.contract import Conditions, Plan
from .conditions.deadline import Deadline, deadline
from .conditions.faults import Fate, Faults, faults
from .conditions.network import Links, Network, link, links
from .conditions.sampling import Sampler, cyclic, poisson, without_replacement
from .loop.buffered import simulate_buffered
from .loop.client_store import ClientStore, StoreRows
from .loop.compiled_rounds import CompiledRounds
from .loop.programs import round_program
from .loop.round import Round, Snapshot
from .loop.simulate import simulate
from .loop.split import simulate_split, split_entries
from .loop.together import Member, simulate_together
from .run_checkpoints import RunCheckpoints

__all__ = [
    "CLIENT_AXES",
    "Auto",
    "Availability",
    "ClientAxis",
    "ClientStore",
    "CompiledRounds",
    "Conditions",
    "Deadline",
    "Fate",
    "Faults",
    "Links",
    "Member",
    "Network",
    "Plan",
    "Round",
    "RunCheckpoints",
    "Sampler",
    "Snapshot",
    "StoreRows",
    "Timed",
    "Windows",
    "auto",
    "candidates",
    "chunked",
    "cyclic",
    "deadline",
    "diurnal",
    "fastest",
    "faults",
    "link",
    "links",
    "poisson",
    "round_program",
    "scan",
    "sharded",
    "simulate",
    "simulate_buffered",
    "simulate_split",
    "simulate_together",
    "split_entries",
    "trace",
    "vmap",
    "without_replacement",
]
