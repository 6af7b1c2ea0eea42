from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression import codec

from fedjax_llm.bench.cohorts import (
    Cohort,
    cohorts,
    mean_error,
    mean_table,
    measure_means,
)

CLIENTS = 16
KNOWN = {"w": 3 * jnp.outer(jnp.sin(jnp.arange(40.0)), jnp.cos(jnp.arange(50.0)))}
NOISE = {"w": jr.normal(jr.key(0), (CLIENTS, 40, 50))}
GAUSSIAN = Cohort(2, jax.tree.map(jnp.zeros_like, KNOWN), NOISE)
FIXTURE = Path(__file__).parents[2] / "fixtures" / "cohort.npz"


def kept():
    """Three matrices of the updates of 8 clients in the sixth round of a compressed run."""
    stored = np.load(FIXTURE)
    names = ("embedding", "q_proj", "up_proj")
    known = {name: jnp.float32(stored[f"{name}_known"]) for name in names}
    updates = {name: jnp.float32(stored[name]) * stored[f"{name}_scale"] for name in names}
    return Cohort(6, known, updates)


def test_an_exact_codec_has_no_error():
    row = mean_error(codec("identity()"), GAUSSIAN)
    assert row["bits_per_entry"] == pytest.approx(32 + 8 * 12 / 2000)
    assert row["error_of_mean"] == pytest.approx(0, abs=1e-12)
    assert row["bias_of_mean"] == pytest.approx(0, abs=1e-12)


@pytest.mark.slow
def test_unbiased_errors_of_independent_updates_average_as_the_updates_do():
    row = mean_error(codec("eden(bits=1)"), GAUSSIAN)
    assert row["error_of_mean"] == pytest.approx(0.571, rel=0.1)  # of one message, too
    assert row["bias_of_mean"] < 0.05


def test_the_error_of_a_codec_without_randomness_is_all_bias():
    row = mean_error(codec("sign()"), GAUSSIAN)
    signs = np.sign(NOISE["w"]) * np.abs(NOISE["w"]).mean(axis=(1, 2), keepdims=True)
    mean = np.asarray(NOISE["w"]).mean(axis=0)
    expected = ((signs.mean(axis=0) - mean) ** 2).sum() / (mean**2).sum()
    assert row["error_of_mean"] == pytest.approx(expected, rel=1e-4)
    assert row["bias_of_mean"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_what_is_known_is_given_to_codecs_that_take_it():
    updates = {"w": KNOWN["w"] + 0.1 * NOISE["w"]}
    given = mean_error(codec("preconditioned(eden(bits=1))"), Cohort(2, KNOWN, updates))
    without = mean_error(codec("eden(bits=1)"), Cohort(2, KNOWN, updates))
    assert given["error_of_mean"] < 0.5 * without["error_of_mean"]


@pytest.mark.slow
def test_messages_are_measured_one_by_one_and_receivers_with_memory_decode():
    rows = [
        mean_error(codec(text), GAUSSIAN)
        for text in ("entropy_coded(rate=2)", "diana(identity(), rate=1)")
    ]
    assert rows[0]["bits_per_entry"] == pytest.approx(2, abs=0.15)
    assert rows[1]["error_of_mean"] == pytest.approx(0, abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "memory"), [(0.25, 8), (0.1, 10)])
def test_on_kept_updates_the_scaled_trellis_has_a_third_of_the_error_of_eden(bits, memory):
    eden = mean_error(codec(f"eden(bits={bits})"), kept())
    text = f"preconditioned(trellis_fixed(bits={bits}, memory={memory}))"
    scaled = mean_error(codec(text), kept())
    assert scaled["bytes"] <= eden["bytes"]
    assert scaled["error_of_mean"] < eden["error_of_mean"] / 3
    assert scaled["bias_of_mean"] < 0.05 * scaled["error_of_mean"]


@pytest.mark.slow
def test_the_table_has_a_line_for_each_codec():
    texts = ("sign()", "eden(bits=1)")
    rows = list(measure_means(texts, [GAUSSIAN, GAUSSIAN._replace(round=5)]))
    assert [(row["codec"], row["round"]) for row in rows] == [
        (text, number) for text in texts for number in (2, 5)
    ]
    assert mean_table(rows).row_count == 2


@pytest.mark.long
def test_the_updates_of_a_round_resemble_the_mean_of_the_one_before():
    (cohort,) = cohorts((2, 2), seed=0)
    assert cohort.round == 2
    mean = jax.flatten_util.ravel_pytree(jax.tree.map(lambda u: u.mean(axis=0), cohort.updates))[0]
    known = jax.flatten_util.ravel_pytree(cohort.known)[0]
    assert mean.shape == known.shape
    cosine = mean @ known / (jnp.linalg.norm(mean) * jnp.linalg.norm(known))
    assert 0.1 < cosine < 0.9


def test_no_round_needs_no_run():
    assert list(cohorts((), seed=0)) == []
