"""Chats as text, split where answers begin and end."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..readers.examples import ANSWERS, Message

INSTRUCTIONS = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '### Instruction:\n' + message['content'] + '\n\n' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ '### Response:\n' + message['content'] }}{{ eos_token }}{{ '\n\n' }}"
    "{% else %}{{ message['content'] + '\n\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"
)
"""A Jinja chat template for models without one, with the headings of Alpaca (Taori et al. 2023)."""

Render = Callable[[Sequence[Message], bool], str]
"""`(messages, whether to add the generation prompt at the end) -> text`."""


class Piece(NamedTuple):
    """A span of a chat's text.

    Attributes:
        text: The text.
        answer: Whether it is an answer of the assistant, which is learnt.

    """

    text: str
    answer: bool


def pieces(
    messages: Sequence[Message], render: Render, *, end: str | None, source: str
) -> list[Piece]:
    """Render a chat and split the text where answers begin and end; the pieces join to the text.

    An answer begins where the rendering of the messages before it, with the generation prompt,
    ends: where the model will begin to write. It ends where the rendering of the messages up to and
    including it ends, less any white space after the end-of-sequence token `end`.

    Cost: the template renders the chat for the first and the last answer. An answer between them is
    found by a search for its content between the same opening and closing as the first answer's,
    and rendered only where the search fails. So a long chat takes a few renderings, not one for
    each answer.

    Raises `ValueError` naming the source and the message where the first message is an answer, and
    where the rendering of the first messages is not the beginning of the whole text.
    """
    whole = render(messages, False)
    answers = [n for n, message in enumerate(messages) if message.role == ANSWERS]
    around = None
    cut: list[Piece] = []
    at = 0
    for n in answers:
        span = None
        if around and n != answers[-1]:
            span = _find(whole, messages[n].content, around, at)
        if span is None:
            span = _rendered(messages, n, render, whole, f"{source}: message {n + 1}")
        if n == answers[0]:
            around = _around(whole, messages[n].content, span, len(render(messages[:n], False)))
        start, stop = span
        if end and (text := whole[:stop].rstrip()).endswith(end) and len(text) > start:
            stop = len(text)
        cut += [Piece(whole[at:start], False), Piece(whole[start:stop], True)]
        at = stop
    return [piece for piece in [*cut, Piece(whole[at:], False)] if piece.text]


def _rendered(
    messages: Sequence[Message], n: int, render: Render, whole: str, where: str
) -> tuple[int, int]:
    """Where an answer begins and ends in the whole text, by rendering the messages up to it."""
    if n == 0:
        raise ValueError(
            f"{where}: expected a question first, got an answer; put a message of another role "
            "before it."
        )
    before = render(messages[:n], True)
    after = whole if n == len(messages) - 1 else render(messages[: n + 1], False)
    _check_prefix(before, after, f"{where}: the opening of the answer")
    _check_prefix(after, whole, f"{where}: the text up to the end of the answer")
    return len(before), len(after)


def _around(whole: str, content: str, span: tuple[int, int], before: int) -> tuple[str, str] | None:
    """The text before and after an answer, or None where the answer's content is changed."""
    start, stop = span
    opening, rest = whole[before:start], whole[start:stop]
    return (opening, rest[len(content) :]) if opening and rest.startswith(content) else None


def _find(whole: str, content: str, around: tuple[str, str], at: int) -> tuple[int, int] | None:
    """Where an answer begins and ends, by a search from a place on; None where there is none."""
    opening, closing = around
    place = whole.find(opening + content + closing, at)
    start = place + len(opening)
    return None if place < 0 else (start, start + len(content) + len(closing))


def _check_prefix(short: str, long: str, what: str) -> None:
    """Raise `ValueError` unless the long text begins with the short one."""
    if not long.startswith(short):
        pairs = enumerate(zip(short, long, strict=False))
        same = next((i for i, (a, b) in pairs if a != b), len(long))
        raise ValueError(
            f"{what}: expected the chat to begin with it, got {long[same : same + 30]!r} for "
            f"{short[same : same + 30]!r} at character {same}; choose a template that appends each "
            "message to the text before it."
        )
