import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fedjax_compression.ops.matrices import Member, gather_matrices, groups_of, scatter_matrices

SHAPES = {
    "scalar": (),
    "vector": (5,),
    "same_vector": (5,),
    "empty_vector": (0,),
    "wide": (8, 20),
    "tall": (20, 8),
    "square": (9, 9),
    "thin": (7, 40),
    "thin_and_tall": (40, 7),
    "stacked": (3, 8, 20),
    "stacked_tall": (2, 3, 20, 8),
    "stacked_thin": (4, 2, 3),
    "empty": (0, 8, 20),
    "without_rows": (0, 16),
    "one": (1, 1),
}
UPDATE = {
    name: (jnp.arange(np.prod(shape)) + 1000 * i).astype(jnp.float32).reshape(shape)
    for i, (name, shape) in enumerate(SHAPES.items())
}


def round_trip(update):
    groups = groups_of(update)
    parts = gather_matrices(update, groups)
    for part, group in zip(parts, groups, strict=True):
        assert part.shape == (group.matrices, group.rows, group.columns)
        assert part.dtype == jnp.float32
    out = scatter_matrices(parts, groups, update)
    assert jax.tree.structure(out) == jax.tree.structure(update)
    for one, other in zip(jax.tree.leaves(update), jax.tree.leaves(out), strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype
    return groups


@pytest.mark.parametrize("name", UPDATE)
def test_a_leaf_round_trips(name):
    round_trip({name: UPDATE[name]})
    round_trip(UPDATE[name])


def test_an_update_of_all_shapes_round_trips():
    groups = round_trip(UPDATE)
    assert sorted(m.leaf for g in groups for m in g.members) == list(range(len(UPDATE)))
    assert sum(g.matrices * g.rows * g.columns for g in groups) == sum(
        x.size for x in jax.tree.leaves(UPDATE)
    )


def test_an_update_without_leaves_round_trips():
    assert round_trip({}) == []


def test_leaves_of_other_dtypes_keep_their_dtypes():
    round_trip({name: x.astype(jnp.bfloat16) for name, x in UPDATE.items()})
    round_trip({"a": UPDATE["wide"].astype(jnp.float16), "b": UPDATE["wide"]})


def test_no_group_has_more_rows_than_columns():
    for group in groups_of(UPDATE):
        entries = group.matrices * group.rows * group.columns
        assert group.rows <= group.columns or not entries


def test_each_shape_is_one_group():
    shapes = [(g.rows, g.columns) for g in groups_of(UPDATE)]
    assert len(set(shapes)) == len(shapes)


def test_tall_matrices_are_turned_and_grouped_with_wide_ones():
    update = {"tall": jnp.ones((20, 8)), "vector": jnp.ones(160), "wide": jnp.ones((3, 8, 20))}
    wide, vector = groups_of(update)
    assert (wide.rows, wide.columns, wide.matrices) == (8, 20, 4)
    assert wide.members == (Member(0, 1, True), Member(2, 3, False))
    assert (vector.rows, vector.columns, vector.members) == (1, 160, (Member(1, 1, False),))


def test_a_tall_matrix_is_gathered_as_its_transpose():
    tall, wide = UPDATE["tall"], UPDATE["tall"].T
    (one,), (other,) = (gather_matrices(x, groups_of(x)) for x in (tall, wide))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("shape", [(7, 40), (40, 7), (4, 2, 3), (12,), (), (1, 1)])
def test_thin_leaves_are_one_row(shape):
    (group,) = groups_of(jnp.ones(shape))
    assert (group.rows, group.columns) == (1, np.prod(shape, dtype=int))


def test_a_structure_has_the_groups_of_its_update():
    assert groups_of(jax.eval_shape(lambda: UPDATE)) == groups_of(UPDATE)


@pytest.mark.slow
def test_gathering_under_vmap_equals_a_loop():
    clients = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), UPDATE)
    groups = groups_of(UPDATE)
    parts = jax.vmap(lambda update: gather_matrices(update, groups))(clients)
    for part, alone in zip(parts, gather_matrices(UPDATE, groups), strict=True):
        np.testing.assert_array_equal(part, jnp.stack([alone, 2 * alone]))
