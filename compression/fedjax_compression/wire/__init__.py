"""Payloads to bytes and back: the only way to bytes."""

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
