"""Bytes that others published, from configurations; the tolerances are their digits."""

import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

from experiments import published_bytes as figures


def test_flower_tunes_baselines_come_out():
    """Published to a tenth, with a framing of their own of a fifth of a percent."""
    for config, entries, published in (
        (figures.MISTRAL_7B, 13_631_488, 40.7),
        (figures.LLAMA_3B, 9_175_040, 27.4),
    ):
        ours = figures.flower_tune(config, rounds=200, clients=2)
        assert ours == pytest.approx(200 * 2 * 2 * (4 * entries + 12) / 2**30, rel=1e-9)
        assert ours == pytest.approx(published, rel=3e-3)


def test_nvflares_table_comes_out_to_its_last_digit():
    rows = list(figures.nvflare())
    values = [row for row in rows if row.what.endswith("values")]
    assert [row.published for row in values] == [5716.26, 2858.13, 1429.06, 714.53]
    assert all(abs(row.ours - row.published) < 0.006 for row in values)
    scales = [row for row in rows if row.what.endswith("scales")]
    assert all(0 < row.ours < row.published for row in scales)


@pytest.mark.slow
def test_demos_and_streaming_dilocos_ratios_come_out():
    public, packed = figures.demo_rows()
    assert public.ours == pytest.approx(85.33, abs=0.006)
    assert packed.ours > 3 * public.ours
    four_bits, scaled = figures.streaming_rows()
    assert four_bits.ours == pytest.approx(400, abs=0.1)
    assert scaled.ours == pytest.approx(400 * 4 / 4.25, abs=0.1)


def test_kseeds_18_kilobytes_come_out_below():
    (row,) = figures.kseed()
    assert row.ours == 4 * 4096 + 8 + 200 * 4 + 200 * 12 / 8 + 2 * 12
    assert row.ours < row.published


def test_fed_prompts_hundredth_of_a_percent_comes_out():
    """Of 124,439,808 parameters, the positions' included; each message has a header."""
    (row,) = figures.fed_prompt()
    assert row.ours == 100 * (4 * 20 * 768 + 12) / (4 * 124_439_808 + 12)
    assert round(row.ours, 2) == row.published


def test_the_public_codes_message_decodes_to_what_it_kept():
    codec = figures.as_public_code_sends(k=2, chunk=8)
    tree = {"a": jr.normal(jr.key(0), (5, 3)), "b": jnp.arange(4.0)}
    sent, _ = codec.encode(jr.key(0), tree, ())
    flat = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(codec.decode(sent, tree))])
    whole = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])
    assert int((flat != 0).sum()) == 6
    assert bool(((flat == whole) | (flat == 0)).all())
