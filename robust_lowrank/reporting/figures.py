"""A figure: one definition for the interactive page and for the SVG and PDF files."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import altair as alt
import vl_convert

from robust_lowrank.reporting.style import Look, vega_config, vega_range

_VEGA_LITE = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])


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

    @property
    def columns(self) -> int:
        """How many panels stand side by side where there is room."""
        return 2 if len(self.panels) in (2, 4) else 3

    def page_specs(self) -> list[dict[str, Any]]:
        """Return the Vega-Lite specification of every panel, as wide as its place on the page."""
        return [self._spec(self._sized(panel, "container"), panel.title) for panel in self.panels]

    def drawn(self, looks: Sequence[Look]) -> list[Look]:
        """Return the looks of the figure's own series."""
        return [look for look in looks if look.series in self.series]

    def paper(self, looks: Sequence[Look]) -> tuple[str, bytes]:
        """Return the figure as SVG and PDF."""
        if len(self.panels) == 1:
            spec = self._spec(self._sized(self.panels[0], 480), self.panels[0].title)
        else:
            width = 600 // self.columns
            sized = [self._sized(panel, width).properties(title=panel.title) for panel in self.panels]
            spec = self._spec(alt.concat(*sized, columns=self.columns), "")
        config = vega_config("light", paper=True) | {"range": vega_range("light", self.drawn(looks))}
        svg = vl_convert.vegalite_to_svg(spec | {"config": config}, vl_version=_VEGA_LITE, allowed_base_urls=[])
        return svg, vl_convert.svg_to_pdf(svg)

    def _sized(self, panel: Panel, width: int | str) -> alt.Chart | alt.LayerChart:
        return panel.chart.properties(width=width, height=self.height)

    def _spec(self, chart: alt.Chart | alt.LayerChart | alt.ConcatChart, title: str) -> dict[str, Any]:
        with alt.data_transformers.enable("default", max_rows=None):
            spec = chart.to_dict(validate=False)
        spec["config"] = {}
        spec["description"] = f"{title}: {self.description}" if title else self.description
        return spec


@cache
def javascript() -> str:
    """Return the script that draws Vega-Lite charts, whole, so that a page needs no network; it defines `vegaEmbed`."""
    return vl_convert.javascript_bundle(snippet="window.vegaEmbed = vegaEmbed;", vl_version=_VEGA_LITE)
