"""The table of what trained models tell, in the documents, is that of the rows."""

from pathlib import Path

from experiments import membership

DOCUMENT = Path(__file__).parents[2] / "docs/privacy.md"


def test_the_table_in_the_documents_is_that_of_the_rows():
    for setting in membership.SETTINGS:
        seeds = [row["seed"] for row in membership.rows_of(setting)]
        assert sorted(seeds) == list(range(membership.SEEDS)), setting
    assert "\n".join(membership.table()) in DOCUMENT.read_text()


def test_coins_are_fair_and_of_each_seed():
    thrown = [membership.coins(seed) for seed in range(200)]
    mean = sum(each.mean() for each in thrown) / len(thrown)
    assert abs(mean - 0.5) < 5 * 0.5 / (200 * 2 * membership.EACH) ** 0.5
    assert len({each.tobytes() for each in thrown}) == len(thrown)
