"""The stack of a cohort's updates, made whole, of chunks and of devices."""

import jax.numpy as jnp

from fedjax_llm.aggregators.stacked import shares, stacked


def test_partial_stacks_merge_to_the_whole_and_drop_rows_of_weight_zero():
    aggregate = stacked()
    rows, weights = (
        jnp.arange(1.0, 6.0)[:, None] * jnp.ones(2),
        jnp.array([1.0, 0.0, 3.0, 2.0, 0.0]),
    )
    empty = aggregate.empty(jnp.zeros(2), 4)
    whole = aggregate.add(empty, rows, weights)
    cohort_chunks = [
        aggregate.add(empty, rows[cut], weights[cut]) for cut in (slice(0, 2), slice(2, 5))
    ]
    for stack in (whole, aggregate.merge(*cohort_chunks)):
        assert stack.rows[:, 0].tolist() == [1.0, 3.0, 4.0, 0.0]
        assert stack.weights.tolist() == [1.0, 3.0, 2.0, 0.0]
        assert int(stack.filled) == 3
        assert shares(stack).tolist() == [jnp.float32(w / 6) for w in (1, 3, 2, 0)]
