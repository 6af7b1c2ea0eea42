"""A report's data as one HTML page that asks nothing of any network."""

import base64
import hashlib
import html
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

ASSETS = files(__package__) / "assets"
SCRIPTS = ("base", "axes", "state", "frontier", "rounds", "clients", "codecs", "table", "main")
"""The page's scripts in their order; together they are one function."""
PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
style-src 'sha256-{style_hash}'; script-src 'sha256-{script_hash}'; img-src data:">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""


def render(data: Mapping[str, Any]) -> str:
    """The page of a report's data, the same for the same data.

    Texts in the data are shown as they are and never read as HTML or run: the data cannot end its
    element, scripts put it into text nodes alone, and the page's policy runs no other script.

    Args:
        data: From `page_data`.

    """
    style, body = (_asset(name) for name in ("page.css", "body.html"))
    scripts = "\n".join(_asset(f"{name}.js") for name in SCRIPTS)
    script = f'"use strict";\n(() => {{\n{scripts}\n}})();\n'
    return PAGE.format(
        style_hash=_digest(style),
        script_hash=_digest(script),
        title=html.escape(f"{data['name']}: report"),
        style=style,
        body=body,
        data=embedded(data),
        script=script,
    )


def embedded(data: Mapping[str, Any]) -> str:
    r"""JSON that can stand in a script element: no character of it can end or open an element.

    Example:
        >>> embedded({"codec": "</script>"})
        '{"codec":"\\u003c/script\\u003e"}'

    """
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))  # ASCII alone
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
