"""Building blocks that methods share, for methods of your own too.

The averaging round and its variants, channels from the server to clients, partial aggregates, the
marking of failed clients, and arithmetic on pytrees.
"""

from ...precision import cast, float32_zeros, in_dtypes, master_copy
from .averaging import Work, averaging, fresh_optimizer, persistent_optimizer
from .base_changes import base_of
from .channel import Channel, ChannelState, CodecState, Message, channel
from .checks import check_no_memory, check_structure
from .failures import has_failed, nan_where
from .partials import PartialAggregate, gather_updates, server_result, server_step
from .trees import choose, is_finite

__all__ = [
    "Channel",
    "ChannelState",
    "CodecState",
    "Message",
    "PartialAggregate",
    "Work",
    "averaging",
    "base_of",
    "cast",
    "channel",
    "check_no_memory",
    "check_structure",
    "choose",
    "float32_zeros",
    "fresh_optimizer",
    "gather_updates",
    "has_failed",
    "in_dtypes",
    "is_finite",
    "master_copy",
    "nan_where",
    "persistent_optimizer",
    "server_result",
    "server_step",
]
