"""Chats as text, split where answers begin and end."""

import json
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any, NamedTuple

from ..readers.messages import ANSWERS, Message

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

DATE = "2024-07-26"
"""The date that a chat template's clock shows unless another is given: that which Llama 3.2's
template falls back to where there is no clock."""

CLOCK = "strftime_now"
"""The function by which a template asks for the time."""

DIRECTIVES = ("a", "A", "w", "d", "-d", "b", "B", "m", "-m", "y", "Y", "H", "I", "p", "M", "S")

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


def dated(template: str, date: str) -> str:
    """The same Jinja template with a clock that stands still at the beginning of a day.

    A macro takes the place of the function `strftime_now`; a template that does not call it is
    returned as it is. Raises `ValueError` for a `date` that is not of the form 2024-07-26.
    """
    try:
        day = datetime.strptime(date, "%Y-%m-%d")
    except (TypeError, ValueError):
        raise ValueError(f"date: expected a date such as {DATE}, got {date!r}.") from None
    if CLOCK not in template:
        return template
    shown = {f"%{each}": day.strftime(f"%{each}") for each in DIRECTIVES}
    steps = {"%%": "\x00", **shown, "\x00": "%"}
    replaced = "".join(f" | replace({json.dumps(a)}, {json.dumps(b)})" for a, b in steps.items())
    return f"{{% macro {CLOCK}(format) %}}{{{{ format{replaced} }}}}{{% endmacro %}}\n{template}"


MOST = 2**16
"""Messages of the chats of marks that are kept at a time; some 10 MB of memory."""


def pieces(
    messages: Sequence[Message],
    render: Render,
    *,
    end: str | None,
    source: str,
    kept: "dict[Any, Marked] | None" = None,
) -> list[Piece]:
    """Render a chat and split the text where learnt answers begin and end.

    An answer begins where the rendering of the messages before it, with the generation prompt,
    ends: where the model will begin to write. It ends where the rendering of the messages up to and
    including it ends, less any white space after the end-of-sequence token `end`. The pieces join
    to the text.

    Guarantee: no text of another role's message is in an answer, whatever the messages quote.
    Places are never found by a search for contents. They are those of marks that stand for the
    contents in a second rendering.

    Cost: the template renders the chat twice, and once more for each new text between two contents.
    With `kept`, which is filled by chats of the same template, tools and variables, it renders the
    chat once if an earlier one had the same roles: what it makes of marks depends on nothing else.
    Where the template changes contents by more than white space at their ends, or a message has
    further fields, it renders the messages up to each answer four times.

    Raises `ValueError` naming the source and the message where the first message is an answer,
    where the rendering of the first messages is not the beginning of the whole text, and where an
    answer's text depends on another role's message.
    """
    whole = render(messages, False)
    answers = [
        n for n, message in enumerate(messages) if message.role == ANSWERS and message.learnt
    ]
    marked = _marked(messages, render, whole, kept) if answers else None
    places = marked.places(messages, whole) if marked else None
    cut: list[Piece] = []
    at = 0
    for n in answers:
        where = f"{source}: message {n + 1}"
        if n == 0:
            raise ValueError(
                f"{where}: expected a question first, got an answer; put a message of another "
                "role before it."
            )
        around = marked.around(n, render) if marked and places else None
        if places and around:
            start, stop = places[n][0] - around[0], places[n][1] + around[1]
        else:
            start, stop = _rendered(messages, n, render, whole, where)
        said = whole[start:stop].rstrip()
        if end and said and whole.endswith(end, 0, start + len(said)):
            stop = start + len(said)
        cut += [Piece(whole[at:start], False), Piece(whole[start:stop], True)]
        at = stop
    return [piece for piece in [*cut, Piece(whole[at:], False)] if piece.text]


class Marked:
    """A chat rendered with marks for its contents, which shows the template's text between them."""

    def __init__(self, messages: Sequence[Message], mark: str, render: Render) -> None:
        """Render the messages, with the mark around a number for each content."""
        self.messages = [
            message._replace(content=f"{mark}{n}{mark}") if message.content else message
            for n, message in enumerate(messages)
        ]
        self.text = text = render(self.messages, False)
        found = list(re.finditer(f"{mark}(\\d+){mark}", text))
        self.once = [int(each[1]) for each in found] == list(range(len(messages)))
        self.marks = [(0, 0), *(each.span() for each in found), (len(text), len(text))]
        self.gaps = [text[a:b] for (_, a), (b, _) in pairwise(self.marks)]  # around the marks
        self.offsets: dict[tuple[str, bool], int] = {}
        self.found: dict[int, tuple[int, int] | None] = {}

    def places(self, messages: Sequence[Message], whole: str) -> list[tuple[int, int]] | None:
        """Find each content in the whole text; None where the template does more than place it."""
        if not self.once or not whole.startswith(self.gaps[0]):
            return None
        at, places = len(self.gaps[0]), []
        for message, gap in zip(messages, self.gaps[1:], strict=True):
            content = message.content
            if not whole.startswith(content + gap, at):
                content = content.strip()
                if not whole.startswith(content + gap, at):
                    return None
            places.append((at, at + len(content)))
            at += len(content) + len(gap)
        return places if at == len(whole) else None

    def around(self, n: int, render: Render) -> tuple[int, int] | None:
        """Characters of answer n before and after its content; None where that is not certain."""
        if n not in self.found:
            self.found[n] = self._around(n, render)
        return self.found[n]

    def _around(self, n: int, render: Render) -> tuple[int, int] | None:
        if any(message.fields for message in self.messages[n - 1 : n + 2]):
            return None
        before = self._offset(n, render, opening=True)
        after = self._offset(n + 1, render, opening=False)
        if before is None or after is None:
            return None
        return len(self.gaps[n]) - before, after

    def _offset(self, n: int, render: Render, *, opening: bool) -> int | None:
        """Length of the rendering of the first n messages after their last content.

        It is the same wherever the text up to the next content is the same, as the template alone
        writes that text.
        """
        gap = self.gaps[n], opening
        if gap not in self.offsets:
            first, last = self.marks[n][1], self.marks[n + 1][0]
            head = render(self.messages[:n], opening)
            if not self.text.startswith(head) or not first <= len(head) <= last:
                return None
            self.offsets[gap] = len(head) - first
        return self.offsets[gap]


def _marked(
    messages: Sequence[Message], render: Render, whole: str, kept: dict[Any, Marked] | None
) -> Marked:
    """The chat with marks: a kept one if nothing but contents differs."""
    mark = _unused(messages, whole)
    if kept is None or any(message.fields or not message.content for message in messages):
        return Marked(messages, mark, render)
    key = mark, tuple((message.role, message.learnt) for message in messages)
    if key not in kept:
        marked = Marked(messages, mark, render)
        if sum(len(each.messages) for each in kept.values()) + len(messages) > MOST:
            kept.clear()
        kept[key] = marked
    return kept[key]


def _rendered(
    messages: Sequence[Message], n: int, render: Render, whole: str, where: str
) -> tuple[int, int]:
    """Where an answer begins and ends in the whole text, by rendering the messages up to it.

    The same is done with marks for the contents of all other roles: the answer's text must stay.
    """
    mark = _unused(messages, whole)
    marked = [
        message if message.role == ANSWERS else message._replace(content=mark)
        for message in messages
    ]
    start, stop = _by_prefixes(messages, n, render, whole, where)
    other = render(marked, False)
    first, last = _by_prefixes(marked, n, render, other, where)
    if whole[start:stop] != other[first:last]:
        raise ValueError(
            f"{where}: expected an answer whose text depends on no other role's message, got "
            f"{whole[start:stop][:60]!r}; choose another template."
        )
    return start, stop


def _by_prefixes(
    messages: Sequence[Message], n: int, render: Render, whole: str, where: str
) -> tuple[int, int]:
    before = render(messages[:n], True)
    after = whole if n == len(messages) - 1 else render(messages[: n + 1], False)
    _check_prefix(before, after, f"{where}: the opening of the answer")
    _check_prefix(after, whole, f"{where}: the text up to the end of the answer")
    return len(before), len(after)


def _unused(messages: Sequence[Message], whole: str) -> str:
    """A character for private use that neither the messages nor their rendering has."""
    texts = (whole, *(message.content for message in messages))
    each = map(chr, range(0xE000, 0x110000))
    return next(mark for mark in each if not any(mark in text for text in texts))


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
