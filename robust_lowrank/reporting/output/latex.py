"""Tables for LaTeX are files to \\input, with a `table` environment each, in the style of booktabs."""

import re
import unicodedata
from collections.abc import Sequence
from itertools import pairwise

from markupsafe import Markup

from robust_lowrank.reporting.formats.tables import Table
from robust_lowrank.reporting.output.page import environment
from robust_lowrank.reporting.output.provenance import Provenance

_GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "varepsilon", "ζ": "zeta", "η": "eta", "θ": "theta", "ι": "iota",
    "κ": "kappa", "λ": "lambda", "μ": "mu", "ν": "nu", "ξ": "xi", "π": "pi", "ρ": "rho", "ς": "varsigma", "σ": "sigma",
    "τ": "tau", "υ": "upsilon", "φ": "varphi", "χ": "chi", "ψ": "psi", "ω": "omega", "ϵ": "epsilon", "ϕ": "phi",
    "Γ": "Gamma", "Δ": "Delta", "Θ": "Theta", "Λ": "Lambda", "Ξ": "Xi", "Π": "Pi", "Σ": "Sigma", "Υ": "Upsilon", "Φ": "Phi",
    "Ψ": "Psi", "Ω": "Omega",
}  # fmt: skip
_MATH = {
    "★": "star", "☆": "star", "±": "pm", "×": "times", "·": "cdot", "÷": "div", "≤": "leq", "≥": "geq", "≠": "neq", "≈": "approx",
    "∞": "infty", "∈": "in", "→": "to", "←": "leftarrow", "↔": "leftrightarrow", "↦": "mapsto", "√": "surd", "✓": "surd",
    "✕": "times", "∂": "partial", "∇": "nabla", "∑": "sum", "∏": "prod", "∫": "int", "∥": "|", "‖": "|", "ℓ": "ell", "≪": "ll",
    "≫": "gg", "∝": "propto", "∘": "circ", "⊤": "top", "⊥": "perp", "⟨": "langle", "⟩": "rangle", "∩": "cap", "∪": "cup",
    "⊂": "subset", "⊆": "subseteq", "∀": "forall", "∃": "exists",
}  # fmt: skip
_TEXT = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    '"': r"{\char34}", "`": r"\`{}", "[": "{[}", "]": "{]}",
    "*": "{*}", "−": "$-$", "–": "--", "—": "---", "…": r"\dots{}", "‘": "`{}", "’": "'{}", "“": "``{}", "”": "''{}",
    "⚠": "(!)", "µ": r"$\mu$", "°": r"$^\circ$",
}  # fmt: skip
_SYMBOLS = {
    **_TEXT,
    **{character: rf"$\{name}$" for character, name in (_GREEK | _MATH).items()},
    **{character: f"$^{{{plain}}}$" for character, plain in zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ᵀ", "0123456789+-T", strict=True)},
    **{character: f"$_{{{plain}}}$" for character, plain in zip("₀₁₂₃₄₅₆₇₈₉₊₋", "0123456789+-", strict=True)},
}
_ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0308": '"', "\u030a": "r", "\u030c": "v", "\u0327": "c",
    "\u0304": "=", "\u0306": "u", "\u0307": ".", "\u030b": "H",
}  # fmt: skip


def escape(text: str) -> str:
    r"""Return text that LaTeX typesets as it stands, with any engine and nothing but its own packages.

    Greek letters and mathematical signs become formulas, letters with one accent stay letters; a character that LaTeX may not
    know is shown by its number.

    Example:
        >>> print(escape(r"τ ≤ 50% of \input{x}"), escape("漢"))
        $\tau$ $\leq$ 50\% of \textbackslash{}input\{x\} {[}U+6F22{]}
    """
    line = " " + _one_line(unicodedata.normalize("NFC", text))
    return "".join(("{}" if now == before in "-,'" else "") + _character(now) for before, now in pairwise(line))


def render(title: str, provenance: Provenance, tables: Sequence[Table]) -> str:
    """Return the tables of a report as a file to \\input."""
    templates = environment(
        finalize=lambda value: value if isinstance(value, Markup) else escape(str(value)),
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
        keep_trailing_newline=True,
    )
    templates.filters["comment"] = lambda text: Markup(_one_line(text))
    templates.filters["slug"] = lambda name: Markup(re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-"))
    return templates.get_template("tables.tex").render(tables=tables, spans=_spans, title=title, made=provenance)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _spans(table: Table) -> list[tuple[str, int, int, int]]:
    """Return the headings above the columns: title, number of columns, the first and the last of them, from 1."""
    spans, first = [], 1
    for title, span in table.groups:
        spans.append((title, span, first, first + span - 1))
        first += span
    return spans


def _character(character: str) -> str:
    if character in _SYMBOLS:
        return _SYMBOLS[character]
    if character.isascii():
        return character if character.isprintable() else f"{{[}}U+{ord(character):04X}{{]}}"
    base, *marks = unicodedata.normalize("NFD", character)
    if base.isascii() and base.isalpha() and len(marks) == 1 and marks[0] in _ACCENTS:
        letter = rf"\{base}{{}}" if base in "ij" and marks[0] != "\u0327" else base
        return rf"{{\{_ACCENTS[marks[0]]}{{{letter}}}}}"
    return f"{{[}}U+{ord(character):04X}{{]}}"
