"""Conversations of real people by user, from the package `chitchat-dataset`."""

import json
from typing import Any

from ...checks import check_count
from .examples import Example, Examples
from .installed import folder_of
from .messages import ANSWERS, Message


def chitchat(*, at_least: int = 1000, at_most: int = 100_000) -> Examples:
    """Read chats of real people by user: 613 users with 5,017 chats by default.

    In a client's chats, the client's user is the assistant and the other person is the user. Each
    talk belongs to both people, and each learns only their own messages, so no text is learnt
    twice. A hold-out by client is not strict: an unseen client may share talks with a training
    client, so that each one's answers are the other's prompts.

    Consecutive messages of one person become one message with a line for each. Messages before the
    other person first speaks, and talks without an answer, are left out. The label of a chat is the
    talk's prompt, its topic.

    The text comes from the JSON file of the installed package, 7,168 talks of 2018; the package is
    not imported. The text is not screened.

    Args:
        at_least: Fewest characters in a user's answers; other users are left out. Default 1,000.
        at_most: Talks are in the order of time, and a user's later talks are left out once the
            answers have this many characters. Default 100,000; without a limit, two users have
            over a million characters each.

    Returns:
        The chats of each user, users sorted by name.

    Raises:
        ValueError: For limits that are not integers of at least 0, or that no user meets.
        ModuleNotFoundError: Where `chitchat-dataset` is not installed.

    Example:
        >>> from fedjax_llm.data import chitchat
        >>> chats = chitchat()
        >>> len(chats), sum(map(len, chats.values()))
        (613, 5017)

    """
    for name, limit in (("at_least", at_least), ("at_most", at_most)):
        check_count(limit, who="chitchat", name=name, at_least=0)
    folder = folder_of("chitchat_dataset", package="chitchat-dataset", extra="data", who="chitchat")
    talks = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    characters: dict[str, int] = {}
    examples: dict[str, list[Example]] = {}
    for key, talk in sorted(talks.items(), key=lambda item: (item[1]["start"], item[0])):
        turns = _turns(talk["messages"])
        for user in sorted({sender for sender, _ in turns}):
            chat = _chat(turns, user)
            answered = sum(len(m.content) for m in chat if m.role == ANSWERS)
            if answered and characters.get(user, 0) < at_most:
                characters[user] = characters.get(user, 0) + answered
                example = Example(chat, talk.get("prompt", ""), f"chitchat: talk {key}")
                examples.setdefault(user, []).append(example)
    kept = {user: chats for user, chats in sorted(examples.items()) if characters[user] >= at_least}
    if not kept:
        raise ValueError(
            f"chitchat: at_least, at_most: expected limits that a user meets, got {at_least} and "
            f"{at_most}."
        )
    return kept


def _turns(messages: list[list[dict[str, Any]]]) -> list[tuple[str, str]]:
    """Join consecutive messages of one sender: `(sender, text)`, senders alternating."""
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
    """The talk with `user` as the assistant, from the other's first message to the user's last."""
    messages = [Message(ANSWERS if sender == user else "user", text) for sender, text in turns]
    first = next((i for i, m in enumerate(messages) if m.role != ANSWERS), len(messages))
    last = max((i for i, m in enumerate(messages) if m.role == ANSWERS), default=0)
    return tuple(messages[first : last + 1])
