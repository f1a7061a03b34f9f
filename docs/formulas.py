"""Blocks of code called "math" become MathML when the site is built, so that browsers show formulas without a script.

GitHub shows the same blocks. Several equations are the rows of a `split`, each with its number in its first column.
"""

import re
from typing import Any

from latex2mathml.converter import convert


def formula(source: str, *_: Any, **__: Any) -> str:
    """Return a formula's HTML, as pymdownx.superfences asks for it."""
    names_are_no_operators = re.sub(r"<mo>(\w{2,})</mo>", r"<mi>\1</mi>", convert(source, display="block"))
    return f'<div class="formula">{names_are_no_operators}</div>'


def on_config(config: Any) -> Any:
    """Add the fence to those of the configuration."""
    config.mdx_configs["pymdownx.superfences"] = {"custom_fences": [{"name": "math", "class": "formula", "format": formula}]}
    return config
