"""Conversations of real people by user, from the package `chitchat-dataset`."""

import json
from typing import Any

from .examples import ANSWERS, Example, Examples, Message
from .installed import folder_of


def chitchat(*, at_least: int = 1000, at_most: int = 100_000) -> Examples:
    """Chats by user: the client's user answers, the other one asks: 613 users, 5,017 chats.

    A talk belongs to both who took part: each learns the own messages alone, so that no text is
    learnt twice, but a client held out may have been asked in a talk that its partner learnt from.
    What several messages in a row said is one message, a line for each. What a user says before
    the other first speaks is left out, and so are talks without an answer.
    Users that answer with fewer than `at_least` characters are left out. Talks are in the order of
    time; a user's later ones are left out once `at_most` characters were answered, which holds
    back two users with a million each. The label is the talk's prompt, its topic.
    Reads the JSON file of the installed package, 7,168 talks of 2018, without importing it. The
    text is that of real people and is not screened.
    Raises `ValueError` for limits that leave no client, `ModuleNotFoundError` where the package is
    not installed.
    """
    folder = folder_of("chitchat_dataset", package="chitchat-dataset", extra="data", who="chitchat")
    talks = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    said: dict[str, int] = {}
    examples: dict[str, list[Example]] = {}
    for key, talk in sorted(talks.items(), key=lambda item: (item[1]["start"], item[0])):
        turns = _turns(talk["messages"])
        for user in sorted({sender for sender, _ in turns}):
            chat = _chat(turns, user)
            answered = sum(len(m.content) for m in chat if m.role == ANSWERS)
            if answered and said.get(user, 0) < at_most:
                said[user] = said.get(user, 0) + answered
                example = Example(chat, talk.get("prompt", ""), f"chitchat: talk {key}")
                examples.setdefault(user, []).append(example)
    kept = {user: own for user, own in sorted(examples.items()) if said[user] >= at_least}
    if not kept:
        raise ValueError(
            f"chitchat: at_least and at_most: expected limits that a user meets, got {at_least} "
            f"and {at_most}."
        )
    return kept


def _turns(messages: list[list[dict[str, Any]]]) -> list[tuple[str, str]]:
    """`(sender, text)`, senders alternating."""
    turns: list[tuple[str, str]] = []
    for message in messages:
        lines = [part["text"].strip() for part in message if part["text"].strip()]
        if not lines:
            continue
        sender, text = message[0]["sender"], "\n".join(lines)
        if turns and turns[-1][0] == sender:
            turns[-1] = sender, f"{turns[-1][1]}\n{text}"
        else:
            turns.append((sender, text))
    return turns


def _chat(turns: list[tuple[str, str]], user: str) -> tuple[Message, ...]:
    """The talk as the user's answers, from the other's first message to the user's last."""
    messages = [Message(ANSWERS if sender == user else "user", text) for sender, text in turns]
    first = next((i for i, m in enumerate(messages) if m.role != ANSWERS), len(messages))
    last = max((i for i, m in enumerate(messages) if m.role == ANSWERS), default=0)
    return tuple(messages[first : last + 1])
