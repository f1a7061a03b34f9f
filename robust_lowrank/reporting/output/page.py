"""Pages are rendered from templates to HTML and Markdown, everything escaped, nothing fetched from a network."""

import base64
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from robust_lowrank.reporting.formats.drawing import NotDrawnError
from robust_lowrank.reporting.formats.figures import Figure, javascript
from robust_lowrank.reporting.formats.style import Look, Theme, vega_config, vega_range

_LINE_BREAKS = re.compile(r"\s*[\r\n]\s*")
_MARKDOWN_SPECIALS = re.compile(r"([\\`*_\[\]|~$#])")


def draw(figure: Figure, series: Sequence[Look]) -> "Drawing":
    """Return a figure with its files, or with the reason why there are none."""
    try:
        return Drawing(figure, figure.paper(series))
    except NotDrawnError as error:
        return Drawing(figure, {}, str(error))


@dataclass(frozen=True)
class Drawing:
    """A figure with its files' contents."""

    figure: Figure
    paper: dict[str, bytes]  # by suffix; empty where it could not be drawn
    failure: str = ""  # why it could not

    @property
    def data_uri(self) -> str:
        """The SVG as an image address that needs no file."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.paper["svg"]).decode()


def html(template: str, series: Sequence[Look], **context: Any) -> str:
    """Render an HTML page with the interactive forms of `drawings` inside."""
    themes: tuple[Theme, ...] = ("light", "dark")
    drawings: Collection[Drawing] = context["drawings"].values()
    charts = {
        "configs": {theme: vega_config(theme) for theme in themes},
        "ranges": {d.figure.name: {theme: vega_range(theme, d.figure.drawn(series)) for theme in themes} for d in drawings},
        "specs": {d.figure.name: d.figure.page_specs() for d in drawings},
    }
    return (
        environment(autoescape=True)
        .get_template(template)
        .render(
            looks=series,
            look={look.series: i for i, look in enumerate(series)},
            charts=charts,
            vega=Markup(_script() if drawings else ""),
            **context,
        )
    )


def _script() -> str:
    """Return the script that draws the charts; without it they are pictures."""
    try:
        return javascript()
    except NotDrawnError:
        return ""


def markdown(template: str, **context: Any) -> str:
    """Render a Markdown file; every value is escaped unless a template marks it as safe."""
    templates = environment(finalize=_escape_markdown, keep_trailing_newline=True)
    templates.filters["fenced"] = _fenced
    return templates.get_template(template).render(**context)


def environment(**options: Any) -> Environment:
    """Return the environment of the templates, with further options of jinja2."""
    loader = PackageLoader("robust_lowrank.reporting")
    return Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, **options)


def _escape_markdown(value: Any) -> Any:
    if isinstance(value, Markup):
        return value
    text = str(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _LINE_BREAKS.sub(" ", _MARKDOWN_SPECIALS.sub(r"\\\1", text))


def _fenced(text: str) -> Markup:
    longest = max((len(ticks) for ticks in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markup(f"{fence}\n{text}\n{fence}")
