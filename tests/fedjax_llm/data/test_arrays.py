"""Client data of plain arrays: batches, splits, losses, and training on them."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from flax import linen

from fedjax_llm import fed_avg
from fedjax_llm.data import (
    ArrayBatch,
    Arrays,
    Batching,
    ClientData,
    all_windows,
    byte_corpus,
    cohort_batches,
    from_arrays,
    hold_out,
    masked_mean,
    step_counts,
)
from fedjax_llm.simulation import chunked, scan, simulate

SIZES = {"bob": 12, "ann": 3, "cyd": 6}


def keys(*seeds):
    return np.array([[0, seed] for seed in seeds], np.uint32)


@pytest.fixture(scope="module")
def numbered():
    """Each example has its number among all clients' examples, clients sorted by name."""
    starts = {"ann": 0, "bob": 3, "cyd": 15}
    return from_arrays(
        {
            name: {"number": np.arange(starts[name], starts[name] + size), "x": np.ones((size, 2))}
            for name, size in SIZES.items()
        }
    )


@pytest.fixture(scope="module")
def regression():
    """Noisy linear data in two features, with other slopes for each client."""
    random = np.random.default_rng(0)
    clients = {}
    for name, size in SIZES.items():
        x = random.standard_normal((size, 2)).astype(np.float32)
        y = x @ random.standard_normal(2) + 0.1 * random.standard_normal(size)
        clients[name] = {"x": x, "y": y.astype(np.float32)}
    return clients


def squared_error(params, frozen, data):
    return (data["x"] @ params - data["y"]) ** 2


def least_squares(clients, weights):
    """The minimum of the weighted sum of the clients' mean squared errors."""
    each = list(zip(clients.values(), weights, strict=True))
    normal = sum(w * c["x"].T @ c["x"] / len(c["x"]) for c, w in each)
    return np.linalg.solve(normal, sum(w * c["x"].T @ c["y"] / len(c["x"]) for c, w in each))


@pytest.mark.slow
def test_linear_regression_by_client_in_ten_lines(regression):
    data = from_arrays(regression)
    loss = masked_mean(lambda params, frozen, data: (data["x"] @ params - data["y"]) ** 2)
    params = jnp.zeros(2)
    algorithm = fed_avg(loss, params, client_optimizer=optax.sgd(0.3))
    batching = Batching(batch=12, epochs=1)
    *_, last = simulate(algorithm, params, (), data, batching, rounds=60, clients=3, seed=0)

    optimum = least_squares(regression, SIZES.values())
    np.testing.assert_allclose(last.state.params, optimum, atol=1e-4)
    x, y = (np.concatenate([client[name] for client in regression.values()]) for name in "xy")
    np.testing.assert_allclose(optimum, np.linalg.lstsq(x, y, rcond=None)[0], atol=1e-4)
    assert np.abs(optimum - least_squares(regression, [1, 1, 1])).max() > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("client_axis", [None, scan(), chunked(2)], ids=["vmap", "scan", "chunked"])
def test_rounds_of_local_steps_are_those_of_a_numpy_loop(regression, client_axis):
    params = jnp.array([0.5, -0.5])
    algorithm = fed_avg(masked_mean(squared_error), params, client_optimizer=optax.sgd(0.1))
    batching = Batching(batch=12, steps=2)  # whole passes: every client's size divides 12
    rounds = simulate(
        algorithm,
        params,
        (),
        from_arrays(regression),
        batching,
        rounds=2,
        clients=3,
        seed=3,
        client_axis=client_axis,
    )
    expected = np.array(params)
    for done in rounds:
        trained = []
        for client in regression.values():
            local = expected
            for _ in range(2):
                gradient = 2 * client["x"].T @ (client["x"] @ local - client["y"])
                local = local - 0.1 * gradient / len(client["x"])
            trained.append(local)
        expected = np.average(trained, axis=0, weights=list(SIZES.values()))
        np.testing.assert_allclose(done.state.params, expected, rtol=1e-5)
        np.testing.assert_array_equal(done.client_info.targets, 24)


@pytest.mark.slow
def test_a_flax_model_trains_on_images_and_labels():
    model = linen.Dense(3)
    random = np.random.default_rng(1)
    images = {client: random.standard_normal((8, 2, 2)).astype(np.float32) for client in "ab"}
    data = from_arrays({c: (x, x.reshape(8, 4)[:, :3].argmax(1)) for c, x in images.items()})

    def per_example(params, frozen, data):
        logits = model.apply(params, data[0].reshape(-1, 4))
        return optax.softmax_cross_entropy_with_integer_labels(logits, data[1])

    params = model.init(jr.key(0), jnp.zeros((1, 4)))
    algorithm = fed_avg(masked_mean(per_example), params, client_optimizer=optax.sgd(0.5))
    batching = Batching(batch=5, epochs=2)
    losses = [
        float(done.client_info.loss.mean())
        for done in simulate(algorithm, params, (), data, batching, rounds=8, clients=2, seed=0)
    ]
    assert losses[-1] < 0.6 * losses[0]


def test_clients_are_sorted_and_examples_are_pieces_rows_and_targets(numbered):
    assert isinstance(numbered, ClientData)
    assert numbered.names == ("ann", "bob", "cyd")
    assert numbered.pieces().tolist() == numbered.targets().tolist() == [3, 12, 6]
    assert numbered.most_rows() == numbered.most_rows(seq=9, pack=False) == 12
    rows = numbered.rows([2, 0])
    assert rows.counts.tolist() == [6, 3]
    wanted = np.array([[True, False], [True, True]])
    batch = rows.take(np.array([[0, 5], [6, 8]]), wanted)
    assert isinstance(batch, ArrayBatch)
    assert batch.data["number"].tolist() == [[15, 0], [0, 2]]
    assert batch.data["x"].shape == (2, 2, 2)
    assert (batch.data["x"] == wanted[..., None]).all()
    np.testing.assert_array_equal(batch.mask, wanted)


def test_dtypes_and_containers_are_kept_and_jax_arrays_are_read():
    trees = {
        client: [np.ones(2, np.int8), (jnp.ones((2, 3), jnp.bfloat16), np.ones(2, bool))]
        for client in "ab"
    }
    batch = all_windows(from_arrays(trees), batch=3)
    assert jax.tree.structure(batch.data) == jax.tree.structure(trees["a"])
    assert [leaf.dtype.name for leaf in jax.tree.leaves(batch.data)] == ["int8", "bfloat16", "bool"]
    assert [leaf.shape for leaf in jax.tree.leaves(batch.data)] == [(2, 3), (2, 3, 3), (2, 3)]
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(batch))
    assert batch.mask.tolist() == [[True] * 3, [True, False, False]]
    alone = from_arrays({"a": np.arange(3)})
    assert all_windows(alone, batch=2).data.tolist() == [[0, 1], [2, 0]]


def test_steps_go_over_every_example_before_any_comes_twice(numbered):
    batch = cohort_batches(numbered, Batching(batch=4, steps=3), [0, 2], keys(1, 2))
    assert batch.mask.all()
    ann, cyd = batch.data["number"].reshape(2, 12)
    for place in range(0, 12, 3):
        assert sorted(ann[place : place + 3]) == [0, 1, 2]
    assert sorted(cyd[:6]) == sorted(cyd[6:]) == [*range(15, 21)]


def test_epochs_have_every_example_equally_often_and_mask_the_rest(numbered):
    batching = Batching(batch=4, epochs=2)
    batch = cohort_batches(numbered, batching, [0, 1], keys(1, 2))
    assert batch.mask.shape == (2, 6, 4)
    assert batch.mask.sum(axis=(1, 2)).tolist() == [6, 24]
    assert sorted(batch.data["number"][0][batch.mask[0]]) == [0, 0, 1, 1, 2, 2]
    assert (batch.data["x"][~batch.mask] == 0).all()
    assert step_counts(numbered, batching, [0, 1, 2]).tolist() == [2, 6, 3]
    alone = cohort_batches(numbered, batching, [0], keys(1))
    np.testing.assert_array_equal(alone.data["number"][0], batch.data["number"][0])


def test_a_split_divides_examples(numbered):
    split = hold_out(numbered, seed=0, clients=0.34, examples=0.25)
    assert all(isinstance(part, Arrays) for part in split)
    assert len(split.unseen_clients.names) == 1
    assert not set(split.unseen_clients.names) & set(split.train.names)
    numbers = np.concatenate([part.data["number"] for part in split])
    assert split.heldout.names == split.train.names
    assert sorted(numbers) == [*range(21)]
    for name, size in zip(split.train.names, split.train.pieces().tolist(), strict=True):
        assert size == SIZES[name] - max(SIZES[name] // 4, 1)  # of ann's three examples one
    empty = hold_out(numbered, seed=0, clients=0.0, examples=0.0)
    assert empty.unseen_clients.names == empty.heldout.names == ()
    assert empty.heldout.most_rows() == 0
    assert all_windows(empty.heldout, batch=4).data["x"].shape == (0, 4, 2)


def test_only_examples_that_count_reach_the_loss_and_its_gradient():
    loss = masked_mean(lambda params, frozen, data: jnp.sqrt(params * data))
    assert not np.isfinite(jax.grad(lambda p: jnp.sqrt(p * 0.0))(4.0))
    for mask in ([True, True, False], [False, True, True], [False, False, True]):
        data = np.where(mask, np.float32([1.0, 4.0, 9.0]), 0)
        value, gradient = jax.value_and_grad(loss)(4.0, (), ArrayBatch(data, np.array(mask)))
        roots = np.sqrt(data[np.array(mask)])
        assert value == pytest.approx(2 * roots.mean())
        assert gradient == pytest.approx(roots.mean() / 4)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_where_nothing_counts_the_loss_and_its_gradient_are_zero(wrap):
    loss = masked_mean(lambda params, frozen, data: jnp.sqrt(params["w"] * data) / data)
    batch = ArrayBatch(np.zeros(3, np.float32), np.zeros(3, bool))
    value, gradient = wrap(jax.value_and_grad(loss))({"w": 4.0}, (), batch)
    assert value == 0
    assert gradient["w"] == 0


def test_the_mean_is_of_float32_at_least():
    loss = masked_mean(lambda params, frozen, data: data)
    batch = ArrayBatch(jnp.full(4096, 1.0078125, jnp.bfloat16), np.ones(4096, bool))
    value = loss((), (), batch)
    assert value.dtype == jnp.float32
    assert value == 1.0078125


def test_a_loss_of_another_shape_is_refused():
    batch = ArrayBatch(np.ones((4, 2)), np.ones(4, bool))
    with pytest.raises(ValueError, match=r"per_example: expected .* \(4,\), .*, got shape \(\)"):
        masked_mean(lambda params, frozen, data: data.mean())((), (), batch)
    with pytest.raises(ValueError, match=r"per_example: expected .* \(4,\), .* shape \(4, 2\)"):
        masked_mean(lambda params, frozen, data: data)((), (), batch)


GOOD = {"x": np.zeros((3, 2), np.float32), "y": np.zeros(3, np.float32)}


@pytest.mark.parametrize(
    ("clients", "error", "message"),
    [
        ({}, ValueError, r"clients: expected at least one client, got none"),
        ({"a": {}}, ValueError, r"client 'a': expected a pytree with at least one array, got none"),
        (
            {"a": [[1.0]]},
            TypeError,
            r"'a': leaf \[0\]\[0\]: expected an array .*, got float; numpy",
        ),
        ({"a": np.array(["b"])}, TypeError, r"client 'a': its array: expected an array of numbers"),
        ({"a": jr.split(jr.key(0), 3)}, TypeError, r"'a': its array: .* got key<fry>\[examples\]"),
        ({"a": np.float32(1)}, TypeError, r"client 'a': its array: .*, got float32"),
        ({"a": np.array(1)}, ValueError, r"expected a leading axis of examples, got shape \(\)"),
        (
            {"b": GOOD, "a": {name: leaf[:0] for name, leaf in GOOD.items()}},
            ValueError,
            r"client 'a': leaf \['x'\]: expected at least one example, got none",
        ),
        (
            {"a": GOOD, "b": {**GOOD, "y": np.zeros(2, np.float32)}},
            ValueError,
            r"client 'b': leaf \['y'\]: expected 3 examples, as many as leaf \['x'\] has, got 2",
        ),
        (
            {"a": GOOD, "b": {"x": GOOD["x"]}},
            ValueError,
            r"client 'b': leaf \['y'\]: expected an array, as client 'a' has, got none",
        ),
        (
            {"a": GOOD, "b": {**GOOD, "z": GOOD["y"]}},
            ValueError,
            r"client 'b': leaf \['z'\]: expected nothing, as client 'a' has none, got an array",
        ),
        (
            {"a": [GOOD["x"]], "b": (GOOD["x"],)},
            ValueError,
            r"client 'b': expected the structure of client 'a', .*\[\*\].*, got .*\(\*,\)",
        ),
        (
            {"a": GOOD, "b": {**GOOD, "x": np.zeros((3, 4), np.float32)}},
            ValueError,
            r"'b': leaf \['x'\]: expected float32\[examples, 2\], as client 'a' has, got float32\[",
        ),
        (
            {"a": GOOD, "b": {**GOOD, "y": np.zeros(3)}},
            ValueError,
            r"'y'\]: expected float32\[examples\], as client 'a' has, got float64\[examples\]",
        ),
    ],
)
def test_bad_data_is_refused_by_client_and_leaf(clients, error, message):
    with pytest.raises(error, match=rf"from_arrays: .*{message}"):
        from_arrays(clients)


def test_data_of_tokens_needs_seq(corpus):
    for read in (
        lambda: corpus.rows([0], seq=None),
        lambda: corpus.most_rows(seq=None),
        lambda: cohort_batches(corpus, Batching(batch=2, steps=1), [0], keys(1)),
        lambda: all_windows(byte_corpus({"a": "a" * 20}), batch=2),
    ):
        with pytest.raises(ValueError, match=r"Corpus: seq: expected an integer .* got None; data"):
            read()
