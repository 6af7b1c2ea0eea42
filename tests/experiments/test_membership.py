"""The table of what trained models tell, in the documents, is that of the rows."""

from pathlib import Path

import jax
import jax.random as jr

from experiments import membership
from fedjax_llm import language_model
from fedjax_llm.audits import one_run_epsilon

DOCUMENT = Path(__file__).parents[2] / "docs/privacy.md"


def test_the_table_in_the_documents_is_that_of_the_rows():
    for setting in membership.SETTINGS:
        seeds = [row["seed"] for row in membership.rows_of(setting)]
        assert sorted(seeds) == list(range(membership.SEEDS)), setting
    assert "\n".join(membership.table()) in DOCUMENT.read_text()


def test_the_decoder_has_as_many_parameters_as_the_documents_say():
    params = language_model(membership.DECODER, key=jr.key(0)).params
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert f"rounds of a decoder of {count:,} parameters" in DOCUMENT.read_text()


def test_no_larger_bound_can_be_shown_than_the_documents_say():
    """One of three numbers of guesses, each at a third of 5 %: all canaries told right."""
    most = one_run_epsilon(
        canaries=membership.EACH,
        guesses=membership.EACH,
        correct=membership.EACH,
        delta=membership.DELTA,
        significance=0.05 / 3,
    )
    assert f"told right it is {most:.2f}:" in DOCUMENT.read_text()


def test_coins_are_fair_and_of_each_seed():
    thrown = [membership.coins(seed) for seed in range(200)]
    mean = sum(each.mean() for each in thrown) / len(thrown)
    assert abs(mean - 0.5) < 5 * 0.5 / (200 * 2 * membership.EACH) ** 0.5
    assert len({each.tobytes() for each in thrown}) == len(thrown)
