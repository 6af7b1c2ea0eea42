import jax
import jax.numpy as jnp
import jax.random as jr
import jaxtyping
import numpy as np
import pytest
from fedjax_compression import WireError, codec, payload_structure, wire

from tests.fuzz_wire import LARGE, MEMORY, distinct, forms, fuzz, fuzz_memory, prefixes, resigned
from tests.helpers.codec_table import CODECS, payload_like, update

PAYLOAD = {
    "b": np.array([1, 2], np.uint8),
    "a": [np.array(1.5, np.float32), np.array([True, False])],
}


@pytest.fixture
def unchecked_types():
    """Disable type checks where thousands of messages are read: they take longer than reading."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_golden_messages_do_not_change():
    assert wire.dumps(PAYLOAD).hex() == "464a02001d7b68f714c3eddf" + "0000c03f" + "0100" + "0102"


def test_all_dtypes_come_back_bit_for_bit():
    integers = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
    names = [*integers, "float16", "float32", "float64", "bool"]
    payload = {name: np.arange(6).reshape(2, 3).astype(name) for name in names}
    payload["bfloat16"] = np.asarray(jnp.arange(6, dtype=jnp.bfloat16))
    payload["float8"] = np.asarray(jnp.arange(6).astype(jnp.float8_e4m3fn))
    payload["nan"] = np.array([np.nan, -0.0, np.inf])
    read = wire.loads(wire.dumps(payload), payload)
    for name, leaf in payload.items():
        assert read[name].dtype == leaf.dtype
        assert read[name].tobytes() == leaf.tobytes()


def test_big_endian_and_strided_arrays_are_written_as_little_endian():
    plain = np.arange(6, dtype="<i4").reshape(2, 3)
    assert wire.dumps(plain.T.astype(">i4")) == wire.dumps(np.ascontiguousarray(plain.T))


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_types")
def test_mutated_messages_raise_or_are_valid_messages():
    likes = distinct({text: payload_like(text) for text in CODECS}) | {"Prefix": prefixes(update())}
    counts = fuzz(likes, mutations=17_000)
    assert counts.total() == 17_000
    assert counts["refused"] > 14_000
    assert counts["another message"] > 1_800  # so that accepted mutations are tested too


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_types")
def test_mutated_symbols_raise_or_are_valid_messages():
    counts = fuzz({"Symbols": payload_like("entropy_coded(rate=12)")}, mutations=3_000)
    assert counts["refused"] > 2_000
    assert counts["another message"] > 100


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_types")
def test_reading_takes_memory_in_proportion_to_the_message():
    # each kind of leaf; `make fuzz` measures every codec
    likes = forms(["top_k(fraction=1.0)", "stochastic_mask()", "trellis(rate=8)"], LARGE)
    assert 1 < fuzz_memory(likes, each=1) <= MEMORY


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d[:-1], "data: expected 20 bytes, got 19"),
        (lambda d: b"XX" + d[2:], "starts with b'FJ', got b'XX'"),
        (lambda d: resigned(d[:2] + b"\x03" + d[3:]), "expected format version 2, got 3"),
        (lambda d: resigned(d[:3] + b"\x01" + d[4:]), "checksum"),
        (lambda d: d[:-1] + b"\xff", "checksum"),
        (lambda d: resigned(d[:16] + b"\x02" + d[17:]), "booleans of 0 or 1"),
    ],
)
def test_each_malformed_message_gets_its_error(change, message):
    with pytest.raises(WireError, match=message):
        wire.loads(change(wire.dumps(PAYLOAD)), PAYLOAD)


@pytest.mark.parametrize(
    "other",
    [
        {"b": PAYLOAD["b"].astype(np.int8), "a": PAYLOAD["a"]},
        {"c": PAYLOAD["b"], "a": PAYLOAD["a"]},
        {"b": PAYLOAD["b"].reshape(2, 1), "a": PAYLOAD["a"]},
    ],
)
def test_another_structure_of_the_same_length_is_refused(other):
    with pytest.raises(WireError, match="expected structure"):
        wire.loads(wire.dumps(other), PAYLOAD)


def test_keys_and_objects_are_not_payloads():
    for leaf in (jr.key(0), np.array(["text"])):
        with pytest.raises(TypeError, match="expected numbers or booleans"):
            wire.dumps({"leaf": leaf})


def test_the_size_is_known_before_anything_runs():
    c = codec("eden(bits=2)")
    like = payload_structure(c, jax.ShapeDtypeStruct((10**9,), jnp.float32))
    assert wire.nbytes(like) == 12 + 250_000_000 + 4 * -(-(10**9) // 4096) + 4
