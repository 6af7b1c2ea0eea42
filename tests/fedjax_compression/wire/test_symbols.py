import numpy as np
import pytest
from fedjax_compression.wire.leaves import Symbols
from fedjax_compression.wire.symbols import dump_symbols, load_symbols
from hypothesis import given, settings
from hypothesis import strategies as st


def symbols(codes, *runs, dtype=np.int32):
    codes = np.asarray(codes, dtype)
    return Symbols(codes, np.array(runs or (codes.size,), np.int32))


def round_trip(sent):
    got = load_symbols(memoryview(dump_symbols(sent)), sent)
    np.testing.assert_array_equal(got.codes, sent.codes)
    np.testing.assert_array_equal(got.runs, sent.runs)
    assert got.codes.dtype == sent.codes.dtype


def entropy(codes):
    _, counts = np.unique(codes, return_counts=True)
    share = counts / counts.sum()
    return -(share * np.log2(share)).sum()


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(-(2**31), 2**31 - 1) | st.integers(-40, 40)), st.data())
def test_any_integers_come_back(codes, data):
    first = data.draw(st.integers(0, len(codes)))
    round_trip(symbols(codes, first, len(codes) - first))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int8", "int16", "int32"])
def test_the_extremes_of_every_dtype_come_back(dtype):
    ends = np.iinfo(dtype)
    near = [ends.min, ends.min + 1, ends.max - 1, ends.max, 0, 1, 31, 32, 33, 63, 64, 100]
    round_trip(symbols(near, dtype=dtype))


@pytest.mark.parametrize("count", [2**10, 2**14 - 1, 2**14, 2**14 + 1, 50_000, 2**18])
def test_many_large_integers_come_back(count):
    random = np.random.default_rng(count)
    round_trip(symbols(2.0 ** random.uniform(0, 32, count), dtype=np.uint32))


def test_runs_may_be_empty_or_have_one_symbol():
    round_trip(symbols([5, 5, 5, -2, 7], 0, 3, 0, 2, 0))
    assert len(dump_symbols(symbols(np.zeros(10**6)))) < 12
    round_trip(Symbols(np.zeros(0, np.int32), np.zeros(0, np.int32)))


def test_large_integers_in_several_runs_come_back():
    random = np.random.default_rng(0)
    codes = random.integers(-(2**31), 2**31, 100_000) >> random.integers(0, 32, 100_000)
    round_trip(symbols(codes, 30_000, 0, 70_000))


@pytest.mark.parametrize("deviation", [0.2, 0.6, 3.0])
def test_a_message_is_within_a_thousandth_of_the_entropy(deviation):
    codes = np.rint(np.random.default_rng(0).normal(size=2**19) * deviation)
    bits = 8 * len(dump_symbols(symbols(codes))) / codes.size
    assert entropy(codes) <= bits <= 1.001 * entropy(codes) + 8 * 60 / codes.size


def test_gaps_of_a_uniform_support_cost_little_more_than_log2_of_the_choices():
    entries, count = 2**20, 2**20 // 100
    support = np.sort(np.random.default_rng(0).choice(entries, count, replace=False))
    gaps = np.diff(support, prepend=-1) - 1
    section = dump_symbols(symbols(gaps, dtype=np.uint32))
    assert 8 * len(section) / count < 8.15  # the bound is 8.08


def test_each_run_has_its_own_table():
    random = np.random.default_rng(0)
    codes = np.concatenate([random.integers(0, 2, 10_000), random.integers(0, 2, 10_000) + 7])
    apart = len(dump_symbols(symbols(codes, 10_000, 10_000)))
    together = len(dump_symbols(symbols(codes)))
    assert apart == pytest.approx(20_000 / 8, abs=40)
    assert together == pytest.approx(2 * 20_000 / 8, abs=40)


def test_a_golden_section_does_not_change():
    assert dump_symbols(symbols([0, -1, 1, 0, 40, 0], 4, 2)).hex() == (
        "040380028001800102358002003280020494ffff5900"
    )


def test_a_golden_section_of_unsigned_integers_does_not_change():
    gaps = [3, 1, 9, 3, 0, 1000, 2**32 - 1]
    assert dump_symbols(symbols(gaps, 4, 3, dtype=np.uint32)).hex() == (
        "0405000080018002000080010321ac010008aa010014aa01042adbbf5a13fdffffff1f"
    )


def test_runs_that_do_not_sum_to_the_codes_are_refused():
    with pytest.raises(ValueError, match=r"Symbols: runs: expected .* that sum to 3, got \[1, 1\]"):
        dump_symbols(symbols([1, 2, 3], 1, 1))


def test_a_run_that_its_dtype_cannot_represent_is_refused():
    codes = np.zeros(300, np.int32)
    section = memoryview(dump_symbols(symbols(codes, 300, 0)))
    like = Symbols(codes, np.zeros(2, np.uint8))
    with pytest.raises(ValueError, match="expected runs of at most 255 codes, got 300"):
        load_symbols(section, like)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("", "expected 1 more bytes, got 0"),
        ("05", "expected runs that sum to 3, got 5"),
        ("ffffffffffff", "an integer of at most 35 bits, got a longer one"),
        ("0300", "expected a table of 1 to 512 symbols, got an empty one"),
        ("03ff7f", "expected a table of at most 512 symbols, got 16383"),
        ("030105", "frequencies that sum to 0 or a power of two from 512 to 65536, got 5"),
        ("030180040410", "expected 4 more bytes, got 1"),
        ("0301800400ff", "expected 0 bytes of raw bits, got 1"),
    ],
)
def test_sections_that_could_not_be_written_are_refused(section, message):
    with pytest.raises(ValueError, match=message):
        load_symbols(memoryview(bytes.fromhex(section)), symbols([0, 0, 0]))
