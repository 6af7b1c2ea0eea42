"""How close a generated text is to the expected one."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from fedjax_compression.checks import check_kind

_WORD = re.compile(r"[^\W_]+")


def exact_match(generated: str, expected: str) -> float:
    """Score 1 if two texts are equal up to white space, else 0.

    White space at the ends is ignored; within a text, any run of white space equals any other. Case
    and punctuation count.

    Args:
        generated: The generated text.
        expected: The expected text.

    Returns:
        1.0 or 0.0.

    Raises:
        TypeError: If an argument is not a text.

    Example:
        >>> from fedjax_llm.evaluation import exact_match
        >>> exact_match(" on  the mat.", "on the mat."), exact_match("on the mat", "on the mat.")
        (1.0, 0.0)

    """
    _check_texts("exact_match", generated, expected)
    return float(generated.split() == expected.split())


def rouge_l(generated: str, expected: str) -> float:
    """Compute ROUGE-L, the F-score of the longest common subsequence of words.

    Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", equations 2 to 4 with
    beta 1. With L the length of the longest common subsequence, recall R is L over the number of
    expected words, precision P is L over the number of generated words, and F = 2 P R / (P + R).
    Words are runs of letters and digits of any script, in lower case, without stemming. On ASCII
    text these are the words of the `rouge-score` package without its stemmer.
    Cost: proportional to the product of the two numbers of words.

    Args:
        generated: The generated text.
        expected: The expected text.

    Returns:
        F, from 0 to 1; 0 if either text has no word.

    Raises:
        TypeError: If an argument is not a text.

    Example:
        >>> from fedjax_llm.evaluation import rouge_l
        >>> rouge_l("police kill the gunman", "police killed the gunman")
        0.75

    """
    _check_texts("rouge_l", generated, expected)
    one, other = words(generated), words(expected)
    common = longest_common_subsequence(one, other)
    return 2 * common / (len(one) + len(other)) if common else 0.0


def words(text: str) -> list[str]:
    """Split a text into runs of letters and digits, in lower case."""
    return _WORD.findall(text.lower())


def longest_common_subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    """Compute the length of the longest sequence of words that both have in order, gaps allowed."""
    number = {word: i for i, word in enumerate(dict.fromkeys(other))}
    columns = np.array([number[word] for word in other], np.int64)
    best = np.zeros(len(other) + 1, np.int64)  # of the words so far and the first j of the other
    for word in one:
        grown = np.where(columns == number.get(word, -1), best[:-1] + 1, 0)
        best[1:] = np.maximum.accumulate(np.maximum(best[1:], grown))
    return int(best[-1])


def _check_texts(who: str, generated: Any, expected: Any) -> None:
    check_kind(generated, str, who=who, name="generated", expected="a text")
    check_kind(expected, str, who=who, name="expected", expected="a text")
