"""Let the documentation tools read our "Example:" sections with doctests as what they are; they know only "Examples:"."""

import re
from typing import Any

import griffe

HEADING = re.compile(r"^( *)Example:\n(?= *>>>)", re.MULTILINE)


class Doctests(griffe.Extension):
    """Renames the heading before docstrings are parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Change an object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = HEADING.sub(r"\1Examples:\n", obj.docstring.value)
