import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression import codec, identity, payload_structure, wire
from fedjax_compression.entropy import entropy_coded
from fedjax_compression.quantizers import dithered, eden
from fedjax_compression.sparsifiers import top_k
from fedjax_compression.wrappers import error_feedback, predictive

LIKE = {"matrix": (7, 11), "scalar": (), "empty": (0, 2)}
CODECS = ["identity()", "eden(bits=2)", "error_feedback(top_k(fraction=0.3))", "dithered(rate=12)"]


def update(seed, dtype=jnp.float32):
    return {name: jr.normal(jr.key(seed), shape).astype(dtype) for name, shape in LIKE.items()}


def decoded(c, x, key=0):
    return c.decode(c.encode(jr.key(key), x, c.init(x))[0], x)


def squared(tree):
    return float(sum((leaf.astype(jnp.float32) ** 2).sum() for leaf in jax.tree.leaves(tree)))


def test_a_message_worked_by_hand():
    x, known = jnp.array([4.0, 1.0, -2.0]), jnp.array([4.0, 4.0, 0.0])
    c = predictive(top_k(fraction=0.3), known, weight=0.5)
    payload, _ = c.encode(jr.key(0), x, ())
    assert payload.values.tolist() == [
        2.0
    ]  # the first of the largest of the differences 2, -1 and -2
    assert c.decode(payload, x).tolist() == [4.0, 2.0, 0.0]


@pytest.mark.slow
def test_weight_zero_is_the_inner_codec():
    x, c = update(0), eden(bits=1)
    plain, known = decoded(c, x), decoded(predictive(c, update(1), weight=0), x)
    jax.tree.map(np.testing.assert_array_equal, known, plain)


@pytest.mark.long
def test_the_error_is_that_of_the_difference():
    cosine, n = 0.8, 2**16
    x, other = jr.normal(jr.key(1), (2, n))
    known = cosine * x + (1 - cosine**2) ** 0.5 * other
    plain, better = (
        squared(x - decoded(c, x)) / n
        for c in (entropy_coded(rate=1), predictive(entropy_coded(rate=1), known, weight=cosine))
    )
    # the difference has 1 - .64 of the power
    assert better / plain == pytest.approx(0.36, rel=0.02)


@pytest.mark.slow
def test_unbiased_codecs_stay_unbiased():
    x, draws = jnp.linspace(-1.0, 1.0, 32), 2000
    c = predictive(eden(bits=1), jnp.ones(32), weight=0.7)
    out = jax.vmap(lambda key: c.decode(c.encode(key, x, ())[0], x))(jr.split(jr.key(0), draws))
    left = np.asarray(out.mean(axis=0) - x)
    one = float(((out - x) ** 2).sum(axis=1).mean())
    # the mean's squared error is one draw's over the draws, plus EDEN's own bias on 32 entries
    assert (left @ left) < 2 * one / draws + 0.01 * squared(x)


@pytest.mark.slow
def test_error_feedback_still_sends_the_sum_of_all_updates():
    knowns = [jr.normal(jr.key(50 + i), (60,)) for i in range(8)]
    updates = [jr.normal(jr.key(i), (60,)) for i in range(8)]
    for wrap in (
        lambda k: predictive(error_feedback(top_k(fraction=0.1)), k, weight=0.5),
        lambda k: error_feedback(predictive(top_k(fraction=0.1), k, weight=0.5)),
    ):
        state, sent = wrap(knowns[0]).init(updates[0]), jnp.zeros(60)
        for x, known in zip(updates, knowns, strict=True):
            payload, state = wrap(known).encode(jr.key(0), x, state)
            sent += wrap(known).decode(payload, x)
        np.testing.assert_allclose(sent + state[0], sum(updates), atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("text", CODECS)
def test_it_keeps_the_contract(text, dtype):
    x, known, inner = update(0, dtype), update(1, dtype), codec(text)
    c = predictive(inner, known, weight=0.5)
    payload, state = jax.jit(c.encode)(jr.key(2), x, c.init(x))
    plain, _ = inner.encode(jr.key(2), x, inner.init(x))
    assert jax.tree.structure(payload) == jax.tree.structure(plain)
    assert jax.tree.structure(state) == jax.tree.structure(c.init(x))
    data = wire.dumps(payload)
    out = c.decode(payload, x)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), out) == jax.tree.map(
        lambda a: (a.shape, a.dtype), x
    )
    again = c.decode(wire.loads(data, payload_structure(c, x)), x)
    jax.tree.map(np.testing.assert_array_equal, again, out)
    broken = x | {"scalar": jnp.array(jnp.nan, dtype)}
    payload, after = c.encode(jr.key(3), broken, state)
    assert not all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(c.decode(payload, x)))
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(after))


@pytest.mark.slow
def test_known_may_be_traced_and_a_repeated_round_traces_once():
    traces = 0

    @jax.jit
    def step(known, x):
        nonlocal traces
        traces += 1
        return decoded(predictive(dithered(rate=8), known, weight=0.5), x)

    for seed in range(3):
        step(jr.normal(jr.key(seed), (50,)), jnp.ones(50))
    assert traces == 1


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), True])
def test_weights_that_are_not_finite_numbers_are_refused(weight):
    with pytest.raises(
        ValueError, match=r"predictive: weight: expected a (finite )?number above -1\.8.* got"
    ):
        predictive(identity(), jnp.ones(3), weight=weight)


def test_a_codec_with_receiver_memory_is_refused():
    with pytest.raises(
        ValueError, match="predictive: compressor: expected a codec whose receiver keeps no"
    ):
        predictive(codec("ef21(sign())"), jnp.ones(3), weight=0.5)


def test_integers_are_refused_also_around_identity():
    """`identity()` takes them, but a weight of .5 would be rounded away."""
    whole = jnp.arange(3)
    with pytest.raises(TypeError, match="predictive: update: expected floating-point entries, got"):
        predictive(identity(), whole, weight=0.5)
    c = predictive(identity(), jnp.ones(3), weight=0.5)
    for use in (lambda: c.init(whole), lambda: c.encode(jr.key(0), whole, ())):
        with pytest.raises(TypeError, match="predictive: update: expected floating-point entries"):
            use()
