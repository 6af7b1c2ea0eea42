"""The table of rebuilt texts, in the documents, is that of the rows; how texts are compared."""

from pathlib import Path

import numpy as np
import pytest

from experiments import reconstruction

DOCUMENT = Path(__file__).parents[2] / "docs/privacy.md"


def test_the_table_in_the_documents_is_that_of_the_rows():
    rows = reconstruction.read_rows(reconstruction.OUT)
    groups = [
        (*group[:2], codec) for group in reconstruction.GROUPS for codec in reconstruction.CODECS
    ]
    expected = sorted((*group, seed) for group in groups for seed in range(reconstruction.SEEDS))
    assert sorted((r["training"], r["attack"], r["codec"], r["seed"]) for r in rows) == expected
    assert "\n".join(reconstruction.table_of_means()) in DOCUMENT.read_text()


def test_texts_are_compared_in_their_best_order():
    true = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    found = [np.array([5, 6, 9, 8]), np.array([2, 3])]
    compared = reconstruction.compared(found, true)
    assert compared["placed"] == pytest.approx(3 / 8)
    assert compared["bigrams"] == pytest.approx(2 / 6)  # 5 6 and 2 3
    assert reconstruction.compared([], true) == {"placed": 0.0, "bigrams": 0.0}
