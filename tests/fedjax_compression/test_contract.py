"""The contract of `Compressor`, for every codec in the table; a factory missing from it fails."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression import codec, identity, testing, top_k, wire
from fedjax_compression.registry import FACTORIES
from fedjax_compression.testing import PROMISES, CompressorTrial, ContractError
from fedjax_compression.text import parse
from fedjax_compression.wire.leaves import is_symbols

from tests.helpers.codec_table import (
    CODECS,
    EAGER,
    LONG,
    compiled,
    every_codec,
    long_update,
    names,
    payload_like,
    trial,
    update,
)


def test_every_factory_is_in_the_table():
    for texts in (CODECS, EAGER):
        assert set().union(*(names(parse(text)) for text in texts)) == set(FACTORIES)


@pytest.mark.parametrize(
    ("text", "promise"),
    [
        pytest.param(text, promise, marks=[] if text in EAGER else pytest.mark.slow)
        for text in CODECS
        for promise in PROMISES
        if promise is not testing.jit_equals_eager or text in EAGER
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_every_codec_keeps_every_promise(text, promise):
    promise(trial(text))


@pytest.mark.long
@pytest.mark.parametrize("text", LONG)
def test_codecs_with_a_rate_also_keep_every_promise_for_long_updates(text):
    long = CompressorTrial(codec(text), long_update())
    assert any(map(is_symbols, jax.tree.leaves(long.encoded[0], is_leaf=is_symbols)))
    for promise in PROMISES:
        if promise is not testing.jit_equals_eager:
            promise(long)


@every_codec
def test_symbols_have_no_size_without_values(text):
    leaves = jax.tree.leaves(trial(text).encoded[0], is_leaf=is_symbols)
    if any(map(is_symbols, leaves)):
        with pytest.raises(
            TypeError, match="the length of Symbols, TrellisSymbols and Prefix depends on"
        ):
            wire.nbytes(payload_like(text))
    else:
        assert wire.nbytes(payload_like(text)) == wire.nbytes(trial(text).encoded[0])


@pytest.mark.parametrize("text", [t for t in CODECS if "chain()" not in t and "identity" not in t])
def test_integers_raise_a_type_error_that_names_the_leaf(text):
    c = compiled(text)
    with pytest.raises(TypeError, match=r"floating-point entries, got int32 in leaf \['n'\]"):
        c.encode(jr.key(0), {"n": jnp.arange(3)}, c.init({"n": jnp.zeros(3)}))


@every_codec
def test_a_mean_of_zeros_is_received_as_zeros_with_fresh_memory(text):
    c, zeros = codec(text), jax.tree.map(jnp.zeros_like, update())
    received, memory = c.receive(zeros, c.receiver(zeros), 1.0)
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves((received, memory)))


def _encode_by_value(key, update, state):
    return jax.tree.map(lambda x: x if float(x.sum()) > 0 else -x, update), state


def _forget_failures(key, update, state):
    return jax.tree.map(lambda x: jnp.nan_to_num(x, posinf=0.0, neginf=0.0), update), state


def _divide_by_the_norm(key, update, state):
    return jax.tree.map(lambda x: x / jnp.linalg.norm(x.ravel()), update), state


def _count(key, update, state):
    return update, state.astype(jnp.float32) + 1.0


BROKEN = {
    testing.structure_comes_back: {
        "decode": lambda payload, like: jax.tree.map(lambda x: x.astype("float32"), payload)
    },
    testing.state_keeps_its_structure: {
        "init": lambda like: jnp.zeros((), jnp.int32),
        "encode": _count,
    },
    testing.zeros_are_exact: {"encode": _divide_by_the_norm},
    testing.failures_are_reported_and_do_not_spread: {"encode": _forget_failures},
    testing.rounds_trace_once: {"init": lambda like: jnp.zeros((), jnp.int32), "encode": _count},
    testing.receiver_state_stays_finite: {
        "receiver": lambda like: jnp.zeros(()),
        "receive": lambda mean, memory, share: (
            mean,
            memory + sum(map(jnp.sum, jax.tree.leaves(mean))),
        ),
    },
    testing.empty_trees_and_leaves_come_back: {
        "decode": lambda payload, like: jax.tree.map(lambda x: x[:1] if x.ndim else x, payload)
    },
}


@pytest.mark.parametrize("promise", BROKEN, ids=lambda promise: promise.__name__)
def test_a_broken_promise_is_named_with_its_remedy(promise):
    broken = CompressorTrial(identity()._replace(**BROKEN[promise]))
    with pytest.raises(ContractError, match=r"^\w+: expected .*, got .*; .*\."):
        promise(broken)


def test_the_check_runs_all_promises():
    testing.check_compressor(top_k(fraction=0.5), {"a": jnp.arange(6.0), "b": jnp.ones(2)})
    with pytest.raises(ContractError, match="zeros: expected zeros and a finite state"):
        testing.check_compressor(identity()._replace(encode=_divide_by_the_norm))
