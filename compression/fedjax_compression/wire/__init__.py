"""Payloads to messages and back: the only place where bytes are made."""

from .leaves import Prefix, Symbols, TrellisSymbols, is_symbols
from .message import HEADER_BYTES, VERSION, WireError, dumps, fingerprint, loads, nbytes

__all__ = [
    "HEADER_BYTES",
    "VERSION",
    "Prefix",
    "Symbols",
    "TrellisSymbols",
    "WireError",
    "dumps",
    "fingerprint",
    "is_symbols",
    "loads",
    "nbytes",
]
