"""transformers, without its report that torch is missing."""

import logging
from typing import Any


def import_transformers() -> Any:
    """Import transformers, of which only tokenizers are used.

    It logs a warning where torch is missing; logging is as it was afterwards.

    Returns:
        The module.

    """
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        import transformers  # noqa: PLC0415 (slow)
    finally:
        logging.disable(level)
    return transformers
