"""Flower's arrays of NumPy and PyTorch apps, and the message that codes their change."""

from collections.abc import Mapping
from typing import Any

import jax
import ml_dtypes
import numpy as np
from fedjax_compression import Compressor, payload_structure, wire
from fedjax_compression.contract import has_receiver_memory, has_sender_state
from fedjax_compression.errors import message
from flwr.app import Array, ArrayRecord
from jaxtyping import PyTree

from ..checks import check_codecs
from .envelope import ReplyError

Named = dict[str, np.ndarray]
"""Arrays by name."""
NUMPY = "numpy.ndarray"
"""How Flower calls the serialisation of its own arrays."""
_FLOATS = ("float32", "float16", "bfloat16")
_EXACT = "biu"


def check_stateless(codec: Compressor, *, who: str) -> None:
    """Raise `ValueError` for a codec that keeps a state or is given a known update."""
    check_codecs(who=who, codec=codec)
    if has_sender_state(codec) or has_receiver_memory(codec):
        raise ValueError(
            f"{who}: codec: expected one without a state, as a message may be lost and neither end "
            "would know, got one with; take the codec inside, or client_app and server_app."
        )


def compiled(codec: Compressor) -> Compressor:
    """The codec with its functions compiled, once for each structure."""
    return codec._replace(encode=jax.jit(codec.encode), decode=jax.jit(codec.decode))


def read_arrays(record: ArrayRecord, *, who: str) -> Named:
    """Read the arrays of a record as NumPy arrays, bfloat16 ones too.

    Args:
        record: Arrays that Flower made of NumPy arrays or PyTorch tensors.
        who: What to call the record in an error.

    Returns:
        The arrays by name, in the order of the record.

    Raises:
        ReplyError: For an array of another serialisation, one whose bytes do not have the dtype and
            shape that it claims, and a dtype that has no message, by the array's name.

    """
    return {name: _read(array, f"{who}: {name}") for name, array in record.items()}


def write_arrays(arrays: Named) -> ArrayRecord:
    """Make a record that `read_arrays` and Flower's strategies read.

    Args:
        arrays: The arrays by name.

    Returns:
        The record.

    """
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def without_bfloat16(arrays: Named) -> Named:
    """The arrays with float32 in the place of bfloat16, which Flower's strategies cannot add."""
    return {
        name: _wide(array) if array.dtype == ml_dtypes.bfloat16 else array
        for name, array in arrays.items()
    }


def in_dtypes_sent(aggregate: ArrayRecord, sent: Named) -> ArrayRecord:
    """A strategy's aggregate in the dtypes of the arrays that were sent; others stay as they are.

    A mean of integers or booleans is rounded to the nearest integer.
    """
    arrays = {}
    for name, array in aggregate.items():
        values = array.numpy()
        if name in sent and values.dtype != sent[name].dtype:
            rounded = values if _is_float(sent[name]) else np.rint(values)
            values = np.asarray(rounded).astype(sent[name].dtype)
        arrays[name] = values
    return write_arrays(arrays)


def encode_change(codec: Compressor, key: Any, before: Named, after: Named) -> tuple[bytes, PyTree]:
    """Code what has changed: floating-point arrays by the codec, others as they are now.

    Args:
        codec: The codec, without state, as `compiled` returns it.
        key: A JAX key, used for nothing else.
        before: The arrays that both ends have.
        after: Arrays of the same names, shapes and dtypes.

    Returns:
        The message and the structure of its payload.

    Raises:
        ReplyError: For names, shapes or dtypes that differ, by name.

    """
    _check_alike(before, after)
    change = {
        name: np.asarray(_wide(array) - _wide(before[name])).astype(array.dtype)
        for name, array in after.items()
        if _is_float(array)
    }
    coded = codec.encode(key, change, codec.init(change))[0]
    exact = {name: array for name, array in after.items() if not _is_float(array)}
    return wire.dumps({"coded": coded, "exact": exact}), change_structure(codec, before)


def decode_change(codec: Compressor, data: bytes, before: Named) -> Named:
    """Decode a message of `encode_change`.

    Args:
        codec: The codec, as `compiled` returns it.
        data: The message.
        before: The arrays that both ends have.

    Returns:
        The arrays as they are after the change, in the order of `before`.

    Raises:
        WireError: For anything but a message that `encode_change` could have made.
        ReplyError: For a change with a NaN or an infinity, by the name of its array.

    """
    payload = wire.loads(data, change_structure(codec, before))
    change = codec.decode(
        payload["coded"], {name: array for name, array in before.items() if _is_float(array)}
    )
    after = {}
    for name, array in before.items():
        if not _is_float(array):
            after[name] = np.asarray(payload["exact"][name])
            continue
        total = _wide(array) + _wide(np.asarray(change[name]))
        after[name] = np.asarray(total).astype(array.dtype)
        if not np.isfinite(_wide(after[name])).all():
            raise ReplyError(f"{name}: expected finite numbers, got NaN or an infinity.")
    return after


def _read(array: Array, who: str) -> np.ndarray:
    if array.stype != NUMPY:
        raise ReplyError(message(who, "stype", repr(NUMPY), array.stype))
    known = array.dtype in _FLOATS
    if not known and np.dtype(_dtype_or(array.dtype)).kind not in _EXACT:
        remedy = "convert it first, such as by .astype('float32')"
        expected = f"{', '.join(_FLOATS)}, an integer dtype or bool"
        raise ReplyError(message(who, "dtype", expected, array.dtype, remedy))
    try:
        values = array.numpy()
    except ValueError as error:
        raise ReplyError(
            f"{who}: expected the bytes of a NumPy array, got others ({error})."
        ) from None
    if array.dtype == "bfloat16" and values.dtype == np.dtype(
        "V2"
    ):  # NumPy's files have no name for it
        values = values.view(ml_dtypes.bfloat16)
    form = str(values.dtype), values.shape
    if form != (claimed := (array.dtype, tuple(array.shape))):
        raise ReplyError(message(who, "dtype and shape", repr(claimed), form))
    return values


def _dtype_or(name: str) -> Any:
    """The dtype of that name; that of objects, which is refused, for another text."""
    try:
        return np.dtype(name)
    except TypeError:
        return np.dtype(object)


def _check_alike(before: Named, after: Named) -> None:
    if set(before) != set(after):
        raise ReplyError(message("arrays", "names", str(sorted(before)), sorted(after)))
    for name, array in after.items():
        form, like = ((str(a.dtype), a.shape) for a in (array, before[name]))
        if form != like:
            raise ReplyError(message("arrays", name, f"{like}, as received", form))


def change_structure(codec: Compressor, before: Named) -> PyTree:
    """The structure of the payload that `encode_change` makes for these arrays."""
    exact = {  # arrays without memory, as JAX has no structure of 64-bit integers by default
        name: np.broadcast_to(np.zeros((), array.dtype), array.shape)
        for name, array in before.items()
        if not _is_float(array)
    }
    return {"coded": payload_structure(codec, _floats(before)), "exact": exact}


def _floats(arrays: Mapping[str, np.ndarray]) -> dict[str, jax.ShapeDtypeStruct]:
    return {
        name: jax.ShapeDtypeStruct(array.shape, array.dtype)
        for name, array in arrays.items()
        if _is_float(array)
    }


def _is_float(array: np.ndarray) -> bool:
    return str(array.dtype) in _FLOATS


def _wide(array: np.ndarray) -> np.ndarray:
    return np.asarray(array).astype(np.float32)
