"""A series looks alike in every chart and table: one colour and one shape, for light and for dark pages.

The hues are a colour-blind-safe set, one a method, so that a method looks the same in every report; variants of a
method are shades of its hue. Dense networks are neutral grey. Shapes tell apart what colours cannot, as in print.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Theme = Literal["light", "dark"]

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
PAPER_FONT = "Helvetica Neue, Helvetica, Arial, sans-serif"

SHAPES = ("circle", "square", "diamond", "triangle-up", "cross", "triangle-down", "triangle-right", "triangle-left")

_HUES: dict[str, tuple[tuple[str, str], ...]] = {  # by method: (light page, dark page) a variant
    "dense": (("#6b7280", "#a3abb8"), ("#3f4651", "#d5dae1"), ("#9aa1ad", "#757d8a")),
    "vanilla": (("#d55e00", "#ff8a3c"), ("#933f00", "#ffb98a"), ("#f0944d", "#c9651a")),
    "condlr": (("#0072b2", "#4db3f0"), ("#00466e", "#a3d8fa"), ("#4aa3d8", "#1f86c4")),
    "dlrt": (("#00875f", "#2fc698"), ("#00533b", "#8fe3c8"), ("#3fb58f", "#128a66")),
    "tdlrt": (("#b0558c", "#e79ac6"), ("#773459", "#f4c9e1"), ("#d08bb4", "#b9669a")),
    "geolora": (("#b8860b", "#f0c24b"), ("#7a5800", "#f8dd97"), ("#d9ab3c", "#bd9020")),
}
_OTHER = (("#5b4bb5", "#a99bf5"), ("#372c78", "#cfc7fb"), ("#8d80d6", "#7d6ddd"))

_INK: dict[Theme, dict[str, str]] = {
    "light": {"text": "#1c2430", "muted": "#5a6472", "grid": "#e6e9ee", "axis": "#b9c0ca"},
    "dark": {"text": "#e8ecf2", "muted": "#a4aebc", "grid": "#2b333f", "axis": "#4c5767"},
}
_SYMBOL, _LETTER = 30, 6  # pixels of a legend's symbol with the gaps beside it, and of a letter


@dataclass(frozen=True)
class Look:
    """The colours and the shape of one series."""

    series: str
    light: str
    dark: str
    shape: str


def looks(methods: Mapping[str, str]) -> tuple[Look, ...]:
    """Give every series its look, in the order of the report."""
    used = Counter[str]()
    chosen = []
    for index, (series, method) in enumerate(methods.items()):
        hues = _HUES.get(method, _OTHER)
        key = method if method in _HUES else ""
        light, dark = hues[used[key] % len(hues)]
        used[key] += 1
        chosen.append(Look(series, light, dark, SHAPES[index % len(SHAPES)]))
    return tuple(chosen)


def vega_range(theme: Theme, looks: Sequence[Look]) -> dict[str, list[str]]:
    """Return the colours and shapes of series as the range of a Vega-Lite configuration."""
    return {
        "category": [look.light if theme == "light" else look.dark for look in looks],
        "symbol": [look.shape for look in looks],
    }


def paper_config(looks: Sequence[Look], width: int) -> dict[str, Any]:
    """Return the Vega-Lite configuration for print: with a legend that fits `width` pixels, and a font that PDF writers know."""
    longest = max((len(look.series) for look in looks), default=0)
    columns = max(1, min(4, width // (_SYMBOL + _LETTER * longest)))
    legend = {"disable": False, "columns": columns, "labelLimit": width // columns - _SYMBOL}
    config = vega_config("light")
    return config | {"background": "white", "font": PAPER_FONT, "legend": config["legend"] | legend}


def vega_config(theme: Theme) -> dict[str, Any]:
    """Return the Vega-Lite configuration of a theme; the page has its own legends."""
    ink = _INK[theme]
    return {
        "background": "transparent",
        "font": FONT,
        "view": {"stroke": None},
        "axis": {
            "labelColor": ink["muted"],
            "labelFontSize": 11,
            "titleColor": ink["text"],
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "titlePadding": 8,
            "gridColor": ink["grid"],
            "domainColor": ink["axis"],
            "tickColor": ink["axis"],
            "tickSize": 4,
        },
        "axisY": {"domain": False, "ticks": False, "labelPadding": 6},
        "title": {"color": ink["text"], "fontSize": 12, "fontWeight": 600, "anchor": "start", "offset": 8},
        "legend": {
            "disable": True,
            "labelColor": ink["text"],
            "labelFontSize": 11,
            "titleColor": ink["text"],
            "symbolSize": 70,
            "orient": "bottom",
            "symbolOpacity": 1,
        },
        "rule": {"color": ink["muted"]},
        "text": {"color": ink["text"]},
    }
