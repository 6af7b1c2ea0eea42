import jax.numpy as jnp
import numpy as np

from fedjax_llm.aggregators.failures import leave_out_failed
from fedjax_llm.aggregators.weighted_mean import weighted_mean

UPDATES = {"w": jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), "b": jnp.array([1.0, 2.0, 3.0])}
LIKE = {"w": jnp.zeros(2), "b": jnp.zeros(())}


def test_the_weighted_mean_is_numpys():
    mean = weighted_mean()
    weights = jnp.array([1.0, 0.0, 3.0])
    out = mean.finish(mean.add(mean.empty(LIKE, 3), UPDATES, weights))
    for name, rows in UPDATES.items():
        np.testing.assert_allclose(out[name], np.average(rows, axis=0, weights=weights), rtol=1e-6)


def test_no_weight_gives_zero():
    mean = weighted_mean()
    out = mean.finish(mean.add(mean.empty(LIKE, 3), UPDATES, jnp.zeros(3)))
    assert out["w"].tolist() == [0.0, 0.0]


def test_failed_rows_lose_their_weight_and_absent_rows_do_not_count_as_failed():
    updates = UPDATES | {"w": UPDATES["w"].at[1, 0].set(jnp.nan).at[2, 1].set(jnp.inf)}
    kept, weights, failed = leave_out_failed(updates, jnp.array([1.0, 2.0, 0.0]))
    assert weights.tolist() == [1.0, 0.0, 0.0]
    assert failed.tolist() == [False, True, False]
    assert kept["w"].tolist() == [[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]]
    assert kept["b"].tolist() == [1.0, 0.0, 0.0]
