import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fedjax_compression import WireError, wire
from fedjax_compression.ops.union_trellis import LANE, codebooks
from fedjax_compression.wire.leaves import TrellisSymbols
from fedjax_compression.wire.trellis_symbols import dump_trellis, load_trellis
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz_wire import resigned

EXTREMES = [-(2**31), -(2**31) + 1, 2**31 - 1, 2**31 - 2, 0, 1, -1, 63, 64, -64, 127, 128]


def symbols(codes, *runs, memory=5):
    codes = np.asarray(codes, np.int32)
    return TrellisSymbols(codes, np.array(runs or (codes.size,), np.int32), np.uint8(memory))


def round_trip(sent):
    section = dump_trellis(sent)
    got = load_trellis(memoryview(section), sent)
    for one, other in zip(got, sent, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype
    assert dump_trellis(got) == section


def gaussian(count, deviation=2.0, seed=0):
    return np.rint(np.random.default_rng(seed).normal(size=count) * deviation).astype(np.int32)


def entropy(codes):
    _, counts = np.unique(codes, return_counts=True)
    return -(counts * np.log2(counts / counts.sum())).sum()


def conditional_entropy(codes, memory):
    books = np.asarray(codebooks(jnp.asarray(codes), states=2**memory))
    return sum(entropy(codes[books == book]) for book in (0, 1))


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(-(2**31), 2**31 - 1) | st.integers(-40, 40), max_size=60),
    st.integers(2, 10),
    st.data(),
)
def test_any_integers_come_back(codes, memory, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(codes)), max_size=4)))
    runs = np.diff([0, *cuts, len(codes)])
    round_trip(symbols(codes, *runs, memory=memory))


def test_the_extreme_integers_come_back():
    round_trip(symbols(EXTREMES))
    for extreme in EXTREMES:
        round_trip(symbols([extreme]))


@pytest.mark.long
@pytest.mark.parametrize("memory", range(2, 11))
@pytest.mark.parametrize("count", [LANE - 1, LANE + 1, 3 * LANE, 5 * LANE + 7])
def test_many_integers_come_back(count, memory):
    random = np.random.default_rng(count)
    codes = random.integers(-(2**31), 2**31, count) >> random.integers(0, 32, count)
    round_trip(symbols(codes, 700, 0, count - 703, 3, memory=memory))


def test_runs_may_be_empty_or_have_one_symbol():
    round_trip(symbols([5, 5, 5, -2, 7], 0, 3, 0, 2, 0))
    round_trip(symbols([], 0, 0))
    round_trip(TrellisSymbols(np.zeros(0, np.int32), np.zeros(0, np.int32), np.uint8(5)))
    assert len(dump_trellis(symbols(np.zeros(2**17)))) < 16


@pytest.mark.slow
@pytest.mark.parametrize("deviation", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("memory", [2, 5, 10])
def test_a_message_is_within_a_hundredth_of_the_conditional_entropy(memory, deviation):
    codes = gaussian(2**16, deviation)
    least = conditional_entropy(codes, memory)
    bits = 8 * len(dump_trellis(symbols(codes, memory=memory)))
    assert least - 8 <= bits <= 1.01 * least


def test_each_codebook_has_its_own_table():
    codes = gaussian(2**16)
    books = np.asarray(codebooks(jnp.asarray(codes), states=4))
    # no even codes but zero in one codebook: no parity changes, and so no path
    codes = np.where((books == 1) & (codes % 2 == 0), 0, codes)
    assert 8 * len(dump_trellis(symbols(codes, memory=2))) < 0.97 * entropy(codes)


def test_each_run_has_its_own_tables():
    small, large = gaussian(2**14, 0.3), gaussian(2**14, 8.0)
    codes = np.concatenate([small, large])
    apart = len(dump_trellis(symbols(codes, small.size, large.size)))
    assert 8 * apart < 1.02 * (entropy(small) + entropy(large))
    assert apart < 0.9 * len(dump_trellis(symbols(codes)))


@pytest.mark.parametrize("codes", [gaussian(50), gaussian(3000, 30.0), np.array(EXTREMES)])
def test_truncated_sections_are_refused_or_read_as_other_codes(codes):
    sent = symbols(codes, 7, codes.size - 7)
    section = dump_trellis(sent)
    for length in {*range(0, min(len(section), 120)), *range(0, len(section), 97)}:
        try:
            got = load_trellis(memoryview(section[:length]), sent)
        except (ValueError, AssertionError):
            continue
        assert dump_trellis(got) != section


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80), st.integers(0, 40))
def test_random_sections_are_refused_or_read(section, count):
    like = symbols(np.zeros(count), 0, count)
    try:
        got = load_trellis(memoryview(section), like)
    except (ValueError, AssertionError):
        return
    assert got.codes.shape == like.codes.shape
    assert got.runs.sum() == count


@pytest.mark.long
@settings(max_examples=300, deadline=None)
@given(st.data())
def test_changed_messages_are_refused_or_are_messages(data):
    sent = symbols(gaussian(120, 20.0), 50, 70, memory=3)
    message = bytearray(wire.dumps(sent))
    for _ in range(data.draw(st.integers(1, 3))):
        message[data.draw(st.integers(wire.HEADER_BYTES, len(message) - 1))] ^= data.draw(
            st.integers(1, 255)
        )
    changed = resigned(bytes(message))
    try:
        got = wire.loads(changed, jax.tree.map(np.asarray, sent))
    except WireError:
        return
    assert wire.dumps(got) == changed


@pytest.mark.parametrize("memory", [0, 1, 11, 255])
def test_an_unknown_memory_is_refused(memory):
    sent = symbols(gaussian(20))
    section = bytes([memory]) + dump_trellis(sent)[1:]
    with pytest.raises(ValueError, match=f"expected a memory from 2 to 10, got {memory}"):
        load_trellis(memoryview(section), sent)


@pytest.mark.parametrize("runs", [(1, 1), (4, 0), (-1, 4), (0, 0)])
def test_runs_that_do_not_sum_are_refused(runs):
    with pytest.raises(
        ValueError, match=r"TrellisSymbols: runs: expected .* that sum to 3, got \["
    ):
        dump_trellis(symbols([1, 2, 3], *runs))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("", "expected 1 more bytes, got 0"),
        ("05", "expected 1 more bytes, got 0"),
        ("0502", "expected 1 more bytes, got 0"),
        ("0504", "expected runs that sum to 3, got 4"),
        ("05ffffffffffff", "an integer of at most 35 bits, got a longer one"),
        ("0503ff7f", "expected a table of at most 512 symbols, got 16383"),
        ("05030105", "frequencies that sum to 0 or a power of two from 512 to 65536, got 5"),
    ],
)
def test_sections_that_could_not_be_written_are_refused(section, message):
    with pytest.raises(ValueError, match=message):
        load_trellis(memoryview(bytes.fromhex(section)), symbols([0, 0, 0]))
