"""What a row's configuration is, whatever version wrote it."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from ..runs import RunConfig, canonical

_DEFAULTS = dataclasses.asdict(canonical(RunConfig()))
"""Values of the fields that rows of earlier versions lack."""


def whole(config: Mapping[str, Any]) -> dict[str, Any]:
    """A row's configuration; fields that did not exist yet had their defaults."""
    decoder = config.get("decoder", {})
    if isinstance(decoder, Mapping):
        decoder = {**_DEFAULTS["decoder"], **decoder}
    return {**_DEFAULTS, **config, "decoder": decoder}


def identity(config: Mapping[str, Any]) -> str:
    """The text that a configuration is known by."""
    return json.dumps(whole(config), sort_keys=True)
