"""The mod and the strategy wrapper, around an app that knows nothing of either."""

import logging
import re

import jax
import ml_dtypes
import numpy as np
import pytest
from fedjax_compression import codec, payload_structure, wire
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from fedjax_llm.flower import ReplyError, compression_mod, decoding

from ...helpers.in_memory_grid import InMemoryGrid

BITS8 = "stochastic_quantize(bits=8)"
START = {
    "weight": np.linspace(-1, 1, 600, dtype=np.float32).reshape(20, 30),
    "scale": np.ones(40, ml_dtypes.bfloat16),
    "half": np.zeros((3, 5), np.float16),
    "bias": np.array(3, np.float32),
    "steps": np.array(2**40, np.int64),
    "mask": np.array([True, False, True]),
}
GAIN = {1: 0.5, 2: 1.5, 3: 4.0}
"""What each node adds to its arrays, besides one step to their count."""


def record(arrays):
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def values(record):
    """Arrays of a record, bfloat16 ones by their name, which NumPy's files lose."""
    return {
        name: array.numpy().view(ml_dtypes.bfloat16) if array.dtype == "bfloat16" else array.numpy()
        for name, array in record.items()
    }


def trained(arrays, node):
    def after(name, array):
        if name == "steps":
            return array + node
        if name == "mask":
            return ~array
        ramp = np.arange(array.size).reshape(array.shape) / 100
        return (array.astype(np.float32) + GAIN[node] * ramp).astype(array.dtype)

    return {name: np.asarray(after(name, array), array.dtype) for name, array in arrays.items()}


def app(*, mods, change=trained):
    made = ClientApp(mods=mods)

    @made.train()
    def train(message, context):
        arrays = values(message.content.array_records["arrays"])
        content = RecordDict(
            {
                "arrays": record(change(arrays, context.node_id)),
                "metrics": MetricRecord({"num-examples": 10 * context.node_id}),
            }
        )
        return Message(content, reply_to=message)

    return made


def one_round(mods, strategy, *, change=trained, tamper=lambda reply: [reply], start=None):
    """A round of a strategy over three nodes, and the bytes of the arrays that came back."""
    came = []

    def keep(reply):
        if reply.has_content():
            arrays = reply.content.array_records["arrays"].values()
            came.append(sum(len(array.data) for array in arrays))
        return tamper(reply)

    nodes = {node: (app(mods=mods, change=change), {"partition-id": node}) for node in GAIN}
    grid = InMemoryGrid(nodes, keep)
    asked = strategy.configure_train(1, record(start or START), ConfigRecord(), grid)
    arrays, _ = strategy.aggregate_train(1, grid.send_and_receive(asked))
    return arrays, came, grid


def fed_avg():
    return FedAvg(fraction_train=1.0, min_train_nodes=1, min_available_nodes=1)


def test_fed_avg_gets_the_arrays_within_the_codecs_error():
    """FedAvg over the mod is FedAvg over plain arrays, to the step of 8 bits, in a third."""
    floats = {name: START[name] for name in ("weight", "half")}
    plain, plain_bytes, _ = one_round([], fed_avg(), start=floats)
    strategy = decoding(fed_avg(), codec(BITS8))
    coded, coded_bytes, _ = one_round([compression_mod(codec(BITS8))], strategy, start=floats)
    for name, array in values(coded).items():
        expected = values(plain)[name]
        step = max(GAIN.values()) * floats[name].size / 100 / 255
        assert array.dtype == expected.dtype
        np.testing.assert_allclose(
            array.astype(np.float32), expected.astype(np.float32), rtol=1e-2, atol=step
        )
    assert max(coded_bytes) < min(plain_bytes) / 3
    assert strategy.rounds == [(1, sum(coded_bytes), {})]


def test_the_aggregate_goes_out_in_the_dtypes_sent():
    """Flower's FedAvg cannot add bfloat16 and makes float64 of integers."""
    arrays, _, _ = one_round([compression_mod(codec(BITS8))], decoding(fed_avg(), codec(BITS8)))
    weights = np.array([1, 2, 3]) / 6
    for name, array in values(arrays).items():
        assert (array.dtype, array.shape) == (START[name].dtype, START[name].shape), name
    each = [trained(START, node) for node in GAIN]
    scale = sum(w * one["scale"].astype(np.float32) for w, one in zip(weights, each, strict=True))
    step = max(GAIN.values()) * 40 / 100 / 255
    np.testing.assert_allclose(
        values(arrays)["scale"].astype(np.float32), scale, rtol=2e-2, atol=step
    )
    assert values(arrays)["steps"] == 2**40 + 2  # (1 * 1 + 2 * 2 + 3 * 3) / 6 = 2.33
    np.testing.assert_array_equal(values(arrays)["mask"], [False, True, False])


def test_dtypes_come_back_and_integers_are_exact():
    """What the strategy gets of each node: integers and booleans as they are, the rest coded."""
    seen = {}

    class Keep(FedAvg):
        def aggregate_train(self, server_round, replies):
            for reply in replies:
                seen[reply.metadata.src_node_id] = values(reply.content.array_records["arrays"])
            return None, None

    inner = Keep(fraction_train=1.0, min_train_nodes=1, min_available_nodes=1)
    one_round([compression_mod(codec(BITS8))], decoding(inner, codec(BITS8)))
    for node, arrays in seen.items():
        expected = trained(START, node)
        assert list(arrays) == list(START)
        for name, array in arrays.items():
            dtype = np.float32 if name == "scale" else expected[name].dtype
            assert (array.dtype, array.shape) == (dtype, expected[name].shape), name
        for name in ("steps", "mask"):
            np.testing.assert_array_equal(arrays[name], expected[name])
        for name in ("weight", "scale", "half", "bias"):
            step = GAIN[node] * START[name].size / 100 / 255
            np.testing.assert_allclose(
                arrays[name].astype(np.float32),
                expected[name].astype(np.float32),
                rtol=1e-2,
                atol=2 * step,
            )


def test_the_bytes_on_the_wire_are_one_message_of_the_codec():
    """12 of header, the codec's payload, and 8 + 3 bytes of integers and booleans."""
    _, came, _ = one_round([compression_mod(codec(BITS8))], decoding(fed_avg(), codec(BITS8)))
    floats = {
        name: jax.ShapeDtypeStruct(START[name].shape, START[name].dtype)
        for name in ("weight", "scale", "half", "bias")
    }
    whole = wire.nbytes(payload_structure(codec(BITS8), floats)) + 8 + 3
    assert came == [whole] * 3


def test_randomness_differs_between_nodes_and_repeats():
    def data(seed):
        kept = []

        def keep(reply):
            kept.append(reply.content.array_records["arrays"]["message"].data)
            return [reply]

        same = lambda arrays, node: trained(arrays, 1)  # noqa: E731
        mods = [compression_mod(codec(BITS8), seed=seed)]
        one_round(mods, decoding(fed_avg(), codec(BITS8)), change=same, tamper=keep)
        return set(kept)  # FedAvg asks the nodes in a random order

    first, again, other = data(0), data(0), data(1)
    assert first == again
    assert len(first | other) == 6


def test_a_reply_that_cannot_be_decoded_is_left_out_by_name(caplog):
    def tamper(reply):
        node, array = reply.metadata.src_node_id, reply.content.array_records["arrays"]["message"]
        if node == 1:
            bad = Array("uint8", (len(array.data) - 1,), array.stype, array.data[:-1])
            reply.content["arrays"] = ArrayRecord({"message": bad})
        if node == 2:
            reply.content["arrays"] = record(START)
        return [reply]

    strategy = decoding(fed_avg(), codec(BITS8))
    mods = [compression_mod(codec(BITS8))]
    floats = {"weight": START["weight"]}
    with caplog.at_level(logging.WARNING, "flwr"):
        arrays, _, _ = one_round(mods, strategy, tamper=tamper, start=floats)
    (done,) = strategy.rounds
    assert sorted(done.failed) == [1, 2]
    assert "bytes, got" in done.failed[1]
    assert "arrays: expected ['message']" in done.failed[2]
    np.testing.assert_allclose(
        values(arrays)["weight"], trained(floats, 3)["weight"], atol=4 * 6 / 255 * 2
    )


def test_a_second_reply_of_a_node_is_left_out():
    strategy = decoding(fed_avg(), codec(BITS8))
    mods, floats = [compression_mod(codec(BITS8))], {"weight": START["weight"]}
    twice = lambda reply: [reply, reply] if reply.metadata.src_node_id == 1 else [reply]  # noqa: E731
    arrays, _, _ = one_round(mods, strategy, tamper=twice, start=floats)
    once, _, _ = one_round(mods, decoding(fed_avg(), codec(BITS8)), start=floats)
    np.testing.assert_allclose(values(arrays)["weight"], values(once)["weight"], atol=1e-5)
    assert strategy.rounds[0].failed == {1: "reply: expected one of each node, got another."}


def test_a_change_of_nan_is_left_out_by_name():
    def diverged(arrays, node):
        arrays = trained(arrays, node)
        if node == 2:
            arrays["weight"][0, 0] = np.nan
        return arrays

    strategy = decoding(fed_avg(), codec(BITS8))
    one_round(
        [compression_mod(codec(BITS8))],
        strategy,
        change=diverged,
        start={"weight": START["weight"]},
    )
    assert list(strategy.rounds[0].failed) == [2]
    assert "weight: expected finite numbers" in strategy.rounds[0].failed[2]


@pytest.mark.parametrize(
    ("start", "change", "expected"),
    [
        ({"a": np.zeros(3)}, None, "arrays: a: dtype: expected float32, float16, bfloat16"),
        ({"a": np.zeros(3, np.complex64)}, None, "arrays: a: dtype"),
        ({"a": np.zeros(3, np.float32)}, {"a": np.zeros(4, np.float32)}, r"arrays: a: .*\(3,\)"),
        ({"a": np.zeros(3, np.float32)}, {"b": np.zeros(3, np.float32)}, "arrays: names"),
    ],
)
def test_arrays_that_cannot_be_sent_are_refused_by_name(start, change, expected):
    """A handler that raises becomes an error reply, which the strategy counts as failed."""
    mods = [compression_mod(codec(BITS8))]
    reasons = []

    def keep(reply):
        reasons.append(reply.error.reason)
        return [reply]

    asked = (lambda arrays, node: change) if change else (lambda arrays, node: arrays)
    one_round(mods, _Nothing(), change=asked, tamper=keep, start=start)
    assert len(reasons) == 3
    for reason in reasons:
        assert ReplyError.__name__ in reason
        assert re.search(expected, reason), reason


class _Nothing(FedAvg):
    def __init__(self):
        super().__init__(fraction_train=1.0, min_train_nodes=1, min_available_nodes=1)

    def aggregate_train(self, server_round, replies):
        return None, None


def test_codecs_with_a_state_are_refused_by_name():
    for text in (
        *("error_feedback(top_k(fraction=0.1))", "ef21(top_k(fraction=0.1))"),
        "power_sgd(rank=2)",  # whose state is for matrices alone
    ):
        with pytest.raises(
            ValueError, match="compression_mod: codec: expected one without a state"
        ):
            compression_mod(codec(text))
        with pytest.raises(ValueError, match="decoding: codec: expected one without a state"):
            decoding(FedAvg(), codec(text))


def test_a_codec_that_would_be_given_a_known_update_is_refused_by_name():
    with pytest.raises(ValueError, match="compression_mod: codec: expected a codec that knows"):
        compression_mod(codec("preconditioned(eden(bits=1))"))


def test_messages_of_other_kinds_pass_unchanged():
    made = ClientApp(mods=[compression_mod(codec(BITS8))])

    @made.evaluate()
    def evaluate(message, context):
        return Message(RecordDict({"arrays": record({"a": np.zeros(2)})}), reply_to=message)

    grid = InMemoryGrid({1: (made, {})})
    asked = Message(RecordDict({"arrays": record(START)}), 1, "evaluate")
    came = grid.send_and_receive([asked])
    assert came[0].content.array_records["arrays"]["a"].stype == "numpy.ndarray"
