"""Docstrings as the API pages show them: the section `Example:` is code."""

import griffe


class Examples(griffe.Extension):
    """Name the section `Example:` as griffe does, which shows it as a session and not as prose."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: object) -> None:
        """Rename the section in one docstring."""
        if obj.docstring:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
