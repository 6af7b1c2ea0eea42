"""How near a generated text is to the expected one."""

import re
from collections.abc import Sequence

import numpy as np

_WORD = re.compile(r"[^\W_]+")


def exact_match(generated: str, expected: str) -> float:
    """1 where the texts are the same but for white space at their ends and its kind and amount
    within, else 0. Case and punctuation count.
    """
    return float(generated.split() == expected.split())


def rouge_l(generated: str, expected: str) -> float:
    """ROUGE-L's F of precision and recall alike (Lin 2004, "ROUGE: A Package for Automatic
    Evaluation of Summaries", equations 2 to 4 with beta 1).

    With L the longest common subsequence of the two texts' words, recall is L over the expected
    words, precision L over the generated ones, and F = 2 P R / (P + R): 0 to 1, and 0 where either
    text has no word. Words are runs of letters and digits of any script, lower-cased; no stemming:
    on ASCII text these are the words of the `rouge-score` package without its stemmer.
    Cost: the product of the numbers of words.
    """
    one, other = words(generated), words(expected)
    common = longest_common_subsequence(one, other)
    return 2 * common / (len(one) + len(other)) if common else 0.0


def words(text: str) -> list[str]:
    """Runs of letters and digits, lower-cased."""
    return _WORD.findall(text.lower())


def longest_common_subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    """Words of the longest sequence that both have in order, with gaps or without."""
    number = {word: i for i, word in enumerate(dict.fromkeys(other))}
    columns = np.array([number[word] for word in other], np.int64)
    best = np.zeros(len(other) + 1, np.int64)  # of the words so far and the first j of the other
    for word in one:
        grown = np.where(columns == number.get(word, -1), best[:-1] + 1, 0)
        best[1:] = np.maximum.accumulate(np.maximum(best[1:], grown))
    return int(best[-1])
