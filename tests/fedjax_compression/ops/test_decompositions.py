import re
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression.ops.decompositions import eigh, orthonormal, svd

ROOT = Path(__file__).parents[3]
STACK = jr.normal(jr.key(0), (2, 3, 7, 4))
SQUARE = STACK @ jnp.swapaxes(STACK, -1, -2)
SLOW = ("eigh", "svd", "qr", "householder_product", "geqrf")


def primitives(jaxpr):
    """Every equation of a program, of the functions that it calls, too."""
    for each in jaxpr.eqns:
        yield each
        for value in jax.tree.leaves(each.params, is_leaf=lambda leaf: hasattr(leaf, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from primitives(inner)


def test_symmetric_matrices_are_put_together_from_their_eigenvectors():
    values, vectors = eigh(SQUARE)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(SQUARE), atol=1e-4)
    np.testing.assert_allclose(
        vectors * values[..., None, :] @ np.swapaxes(vectors, -1, -2), SQUARE, atol=1e-4
    )


def test_matrices_are_put_together_from_their_singular_vectors():
    u, s, v = svd(STACK)
    assert (u.shape, s.shape, v.shape) == ((2, 3, 7, 4), (2, 3, 4), (2, 3, 4, 4))
    np.testing.assert_allclose(s, np.linalg.svd(STACK, compute_uv=False), rtol=1e-4)
    np.testing.assert_allclose(u * s[..., None, :] @ v, STACK, atol=1e-4)


def test_orthonormal_columns_span_those_of_the_matrix():
    q = orthonormal(STACK)
    gram = np.swapaxes(q, -1, -2) @ q
    np.testing.assert_allclose(gram, np.broadcast_to(np.eye(4), gram.shape), atol=1e-5)
    np.testing.assert_allclose(q @ (np.swapaxes(q, -1, -2) @ STACK), STACK, atol=1e-4)


@pytest.mark.parametrize("decompose", [eigh, svd, orthonormal])
def test_under_vmap_too_a_call_has_one_matrix(decompose):
    """Several matrices in a call wait for threads that may never come."""
    stack = SQUARE if decompose is eigh else STACK
    program = jax.jit(jax.vmap(decompose))
    jax.tree.map(np.testing.assert_array_equal, program(stack), decompose(stack))
    found = [
        e for e in primitives(jax.make_jaxpr(program)(stack).jaxpr) if str(e.primitive) in SLOW
    ]
    assert found
    assert {len(each.invars[0].aval.shape) for each in found} == {2}


def test_no_other_module_decomposes_matrices():
    direct = re.compile(r"jnp\.linalg\.(eigh|eig|svd|qr|inv|pinv|solve|cholesky|lstsq|det|slogdet)")
    for folder in ("fedjax_llm", "compression/fedjax_compression"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.name != "decompositions.py":
                assert not direct.search(path.read_text()), path
