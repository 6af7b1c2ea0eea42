"""Chats as text, cut where answers begin and end."""

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
"""A Jinja template for models that come without one, with the headings of Alpaca (Taori et al.
2023)."""

Render = Callable[[Sequence[Message], bool], str]
"""`(messages, whether to open an answer at the end) -> text`."""


class Piece(NamedTuple):
    """A stretch of a chat's text."""

    text: str
    answer: bool
    """Whether the assistant says it, and so learns it."""


def pieces(
    messages: Sequence[Message], render: Render, *, end: str | None, source: str
) -> list[Piece]:
    """What the template makes of a chat, cut where answers begin and end; joined it is all of it.

    An answer begins where the template, asked for an opening after the messages before it, ends:
    where the model will begin to write. It ends where the template ends after it, but for white
    space after `end`, the end-of-sequence token. The template itself is asked for the first and
    the last answer, and for those between that do not stand as the first does, between the same
    opening and closing: a long chat is written a few times, not once for each answer.
    Raises `ValueError` naming the source and the message: where the first message is an answer, and
    where the template does not write the text before and after an answer as it opened it.
    """
    whole = render(messages, False)
    answers = [n for n, message in enumerate(messages) if message.role == ANSWERS]
    around = None
    found: list[Piece] = []
    at = 0
    for n in answers:
        span = None
        if around and n != answers[-1]:
            span = _find(whole, messages[n].content, around, at)
        if span is None:
            span = _asked(messages, n, render, whole, f"{source}: message {n + 1}")
        if n == answers[0]:
            around = _around(whole, messages[n].content, span, len(render(messages[:n], False)))
        start, stop = span
        if end and (kept := whole[:stop].rstrip()).endswith(end) and len(kept) > start:
            stop = len(kept)
        found += [Piece(whole[at:start], False), Piece(whole[start:stop], True)]
        at = stop
    return [piece for piece in [*found, Piece(whole[at:], False)] if piece.text]


def _asked(
    messages: Sequence[Message], n: int, render: Render, whole: str, where: str
) -> tuple[int, int]:
    """Where the template begins and ends an answer."""
    if n == 0:
        raise ValueError(f"{where}: expected a question first, got an answer.")
    before = render(messages[:n], True)
    after = whole if n == len(messages) - 1 else render(messages[: n + 1], False)
    _check_prefix(before, after, f"{where}: the opening of the answer")
    _check_prefix(after, whole, f"{where}: the text up to the end of the answer")
    return len(before), len(after)


def _around(whole: str, content: str, span: tuple[int, int], before: int) -> tuple[str, str] | None:
    """What the template writes before and after an answer, if the answer stands there as it is."""
    start, stop = span
    opening, rest = whole[before:start], whole[start:stop]
    return (opening, rest[len(content) :]) if opening and rest.startswith(content) else None


def _find(whole: str, content: str, around: tuple[str, str], at: int) -> tuple[int, int] | None:
    opening, closing = around
    place = whole.find(opening + content + closing, at)
    start = place + len(opening)
    return None if place < 0 else (start, start + len(content) + len(closing))


def _check_prefix(short: str, long: str, what: str) -> None:
    if not long.startswith(short):
        pairs = enumerate(zip(short, long, strict=False))
        same = next((i for i, (a, b) in pairs if a != b), len(long))
        raise ValueError(
            f"{what}: expected the template to go on from it, got {long[same : same + 30]!r} for "
            f"{short[same : same + 30]!r} at character {same}; choose a template that writes a "
            "chat from its start to its end."
        )
