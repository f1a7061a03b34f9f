"""Figures have one definition for the interactive page and for the SVG and PDF files."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import altair as alt

from robust_lowrank.errors import shown
from robust_lowrank.reporting.formats.drawing import shared_engine
from robust_lowrank.reporting.formats.style import Look, paper_config, vega_range

_VEGA_LITE = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])

COLUMN, TEXT = 3.3, 6.9  # inches: a column of a two-column paper, and both with the gap between them
_DENSITY = 115  # design pixels an inch: labels of 11 pixels are 7 points high
_DPI = 300

_SHOWN = "indexof(hidden, datum.series) < 0"
_SIZE = re.compile(r'width="[^"]*" height="[^"]*"')


@dataclass(frozen=True)
class Panel:
    """One chart of a figure; `title` names it where a figure has several."""

    chart: alt.Chart | alt.LayerChart
    title: str = ""


@dataclass(frozen=True)
class Figure:
    """Charts that belong together.

    `name` is the file name, `description` says in words what is drawn (for those who cannot see it), `caption` how to read
    it, `series` are those that appear.
    """

    name: str
    title: str
    description: str
    caption: str
    series: tuple[str, ...]
    panels: tuple[Panel, ...]
    height: int = 220
    wide: bool = False  # whether it takes both columns of a paper though it has one panel
    folded: bool = False  # whether the page shows it when it is asked for

    @property
    def columns(self) -> int:
        """The number of panels side by side where there is room."""
        return 2 if len(self.panels) in (2, 4) else 3

    def page_specs(self) -> list[dict[str, Any]]:
        """Return the Vega-Lite specification of every panel, as wide as its place on the page.

        Its parameter `hidden` lists the series that are not drawn: marks whose data have such a value in the field `series`.
        """
        specs = [self._spec(self._sized(panel, "container"), panel.title) for panel in self.panels]
        for spec in specs:
            _filter_marks(spec)
            spec["params"] = [*spec.get("params", []), {"name": "hidden", "value": []}]
        return specs

    def drawn(self, looks: Sequence[Look]) -> list[Look]:
        """Return the looks of the figure's own series."""
        return [look for look in looks if look.series in self.series]

    def paper(self, looks: Sequence[Look]) -> dict[str, bytes]:
        """Return the files for print by suffix: a column (3.3 inches) wide, or the text (6.9 inches) with several panels or a
        wide one.

        Raises:
            NotDrawnError: the engine that draws them fails.
        """
        inches = TEXT if self.wide or len(self.panels) > 1 else COLUMN
        goal = round(inches * _DENSITY)
        svg = self._print(goal, looks, goal)
        beside = _extent(svg)[0] - goal  # axes and legend
        svg = self._print(max(goal - beside, goal // 3), looks, goal)
        width, height = _extent(svg)
        points = _resize(svg, f"{72 * inches:g}", f"{72 * inches * height / width:g}")
        pdf, png = map(base64.b64decode, shared_engine().do("print", svg=points, dpi=_DPI))
        return {"pdf": pdf, "svg": _resize(svg, f"{inches}in", f"{inches * height / width:.3f}in").encode(), "png": png}

    def _print(self, width: int, looks: Sequence[Look], goal: int) -> str:
        if len(self.panels) == 1:
            spec = self._spec(self._sized(self.panels[0], width), self.panels[0].title)
        else:
            each = width // self.columns
            titles = [alt.TitleParams(panel.title, limit=each) for panel in self.panels]
            sized = [self._sized(panel, each).properties(title=title) for panel, title in zip(self.panels, titles, strict=True)]
            spec = self._spec(alt.concat(*sized, columns=self.columns), "")
        drawn = self.drawn(looks)
        config = paper_config(drawn, goal) | {"range": vega_range("light", drawn)}
        return shared_engine().do("svg", spec=spec | {"config": config}, version=_VEGA_LITE)

    def _sized(self, panel: Panel, width: int | str) -> alt.Chart | alt.LayerChart:
        return panel.chart.properties(width=width, height=self.height)

    def _spec(self, chart: alt.Chart | alt.LayerChart | alt.ConcatChart, title: str) -> dict[str, Any]:
        with alt.data_transformers.enable("default", max_rows=None):
            spec = chart.to_dict(validate=False)
        spec["config"] = {}
        spec["description"] = f"{title}: {self.description}" if title else self.description
        return _shown(spec)


def _shown(value: Any) -> Any:
    """Return a chart whose texts hold no controls, over which the engine would die."""
    if isinstance(value, dict):
        return {key: _shown(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_shown(each) for each in value]
    return shown(value) if isinstance(value, str) else value


def _filter_marks(spec: dict[str, Any]) -> None:
    for inner in (*spec.get("layer", ()), *spec.get("concat", ()), *([spec["spec"]] if "spec" in spec else ())):
        _filter_marks(inner)
    if "mark" in spec:
        spec["transform"] = [{"filter": _SHOWN}, *spec.get("transform", ())]


def _extent(svg: str) -> tuple[int, int]:
    width, height = re.findall(r'viewBox="0 0 (\d+) (\d+)"', svg)[0]
    return int(width), int(height)


def _resize(svg: str, width: str, height: str) -> str:
    return _SIZE.sub(f'width="{width}" height="{height}"', svg, count=1)


@cache
def javascript() -> str:
    """Return the script that draws Vega-Lite charts, whole, so that a page needs no network; it defines `vegaEmbed`.

    Raises:
        NotDrawnError: the engine that has it fails.
    """
    return shared_engine().do("script", snippet="window.vegaEmbed = vegaEmbed;", version=_VEGA_LITE)
