"""The texts of all tested codecs, and the updates that they are tested on."""

import functools

import jax
import jax.numpy as jnp
import pytest
from fedjax_compression import Compressor, codec, payload_structure
from fedjax_compression.testing import CompressorTrial, default_update
from fedjax_compression.text import Call

# Without predictive, which takes an update and so has no text: see test_predictive.py.
CODECS = [
    "identity()",
    "chain()",
    "stochastic_quantize(bits=1)",
    "stochastic_quantize(bits=3)",
    "stochastic_quantize(bits=8)",
    "top_k(fraction=0.1)",
    "top_k(fraction=1.0)",
    "random_k(fraction=0.3)",
    "chain(random_k(fraction=0.5), stochastic_quantize(bits=4))",
    "chunked_top_k(fraction=0.1, chunk=32)",
    "error_feedback(chain(chunked_top_k(fraction=0.1), stochastic_quantize(bits=2)))",
    "sparse_loco()",
    "error_feedback(sparse_loco(fraction=0.2, chunk=32), decay=0.95)",
    "sparse_ternary(fraction=0.1)",
    "error_feedback(sparse_ternary(fraction=0.3))",
    "threshold(value=0.5, capacity=0.3)",
    "error_feedback(threshold(value=1.0, capacity=1.0))",
    "power_sgd(rank=1)",
    "error_feedback(power_sgd(rank=2))",
    "count_sketch(rows=3, columns=40)",
    "random_subspace(fraction=0.3)",
    "dgc(fraction=0.1, momentum=0.9)",
    "dct_top_k(fraction=0.2, decay=0.9, block=16)",
    "eden(bits=1)",
    "eden(bits=3)",
    "entropy_coded(rate=12)",
    "error_feedback(entropy_coded(rate=12), decay=0.9)",
    "unbiased_scale(entropy_coded(rate=12))",
    "unbiased_scale(top_k(fraction=0.5))",
    "least_error_scale(top_k(fraction=0.5))",
    "error_feedback(least_error_scale(eden(bits=1)))",
    "drive()",
    "dithered(rate=12)",
    "error_feedback(dithered(rate=12))",
    "stochastic_mask()",
    "preconditioned(eden(bits=2))",
    "ef21(top_k(fraction=0.1))",
    "ef21(power_sgd(rank=1))",
    "diana(eden(bits=1), rate=0.5)",
    "chain(entropy_coded(rate=12), stochastic_quantize(bits=8))",
    "eden(bits=0.5)",
    "eden(bits=2.3)",
    "qsgd(levels=1)",
    "qsgd(levels=100)",
    "terngrad()",
    "natural()",
    "sign()",
    "rotated(stochastic_quantize(bits=2))",
    "rotated(sign())",
    "blockwise_int(bits=2, block=16)",
    "blockwise_int(bits=8)",
    "nf4()",
    "mxfp4()",
    "fp8()",
    "bfloat16()",
    "fixed_point(clip=4.0, bits=9, clients=5)",
    "trellis_fixed(bits=1)",
    "trellis_fixed(bits=0.25, memory=4)",
    "trellis(rate=8, states=8)",
    "unbiased_scale(rotated(trellis(rate=8)))",
    "adaptive(rate=8, states=4)",
    "error_feedback(adaptive(rate=8, states=4))",
    "trellis_fixed(bits=3, memory=5)",
    "error_feedback(top_k(fraction=0.1))",
    "error_feedback(eden(bits=2))",
    "chain(top_k(fraction=0.3), stochastic_quantize(bits=4))",
    "error_feedback(rotated(sign()))",
    "chain(top_k(fraction=0.3), eden(bits=2), stochastic_quantize(bits=8))",
    "error_feedback(chain(top_k(fraction=0.2), stochastic_quantize(bits=4)))",
    "chain(error_feedback(top_k(fraction=0.2)), error_feedback(eden(bits=2)))",
]


LONG = [
    "adaptive(rate=1, states=4)",
    "dithered(rate=1)",
    "entropy_coded(rate=1)",
    "trellis(rate=1, states=8)",
]
"""Codecs that send `update()` as a short update, for `long_update()`."""

COMBINED = [
    "chain(top_k(fraction=0.3), stochastic_quantize(bits=4))",
    "diana(eden(bits=1), rate=0.5)",
    "ef21(top_k(fraction=0.1))",
    "error_feedback(top_k(fraction=0.1))",
    "least_error_scale(top_k(fraction=0.5))",
    "preconditioned(eden(bits=2))",
    "rotated(sign())",
    "unbiased_scale(top_k(fraction=0.5))",
]
"""One codec for each wrapper."""
EAGER = [text for text in CODECS if text.count("(") == 1 or text in COMBINED]
"""Each factory once. Tests of the other codecs are slow, and these are also run op by op."""

every_codec = pytest.mark.parametrize(
    "text",
    [pytest.param(text, marks=[] if text in EAGER else pytest.mark.slow) for text in CODECS],
    scope="session",
)
"""Session scope groups all tests of a codec, in every file, so that they share its programs."""


@functools.cache
def update(seed: int = 0, dtype=jnp.float32):
    with jax.ensure_compile_time_eval():  # concrete arrays, also inside a trace
        return default_update(seed, dtype)


@functools.cache
def trial(text):
    """A codec and `update()`, whose programs are compiled once for all tests."""
    return CompressorTrial(codec(text), update())


def compiled(text):
    """A codec whose encode and decode compile once for all tests of the same shapes."""
    shared = trial(text)
    return Compressor(
        shared.compressor.init,
        shared.encode,
        shared.decode,
        shared.compressor.receiver,
        shared.compressor.receive,
    )


@functools.cache
def payload_like(text):
    """The structure of a codec's payload of `update()`."""
    return payload_structure(compiled(text), update())


@functools.cache
def long_update():
    """Gaussian leaves, long enough for tables and bases."""
    with jax.ensure_compile_time_eval():
        keys = jax.random.split(jax.random.key(0), 3)
        shapes = [(2, 64, 64), (48,), ()]
        return {
            name: jax.random.normal(key, shape)
            for name, key, shape in zip(("matrices", "vector", "scalar"), keys, shapes, strict=True)
        }


@functools.cache
def long_payload_like(text):
    """The structure of a codec's payload of `long_update()`."""
    return payload_structure(codec(text), long_update())


def names(call) -> set[str]:
    inner = [argument for argument in call.args if isinstance(argument, Call)]
    return {call.name}.union(*map(names, inner))


def structure(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)
