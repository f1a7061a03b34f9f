"""Draw what a training step costs, from kept results: `python -m benchmarks.picture [RESULTS] [SVG]`."""

import argparse
import json
from pathlib import Path

import altair as alt
import pandas as pd
import vl_convert

from benchmarks.__main__ import RESULTS
from benchmarks.results import load
from robust_lowrank.records import replacing
from robust_lowrank.reporting.formats.style import FONT

PICTURE = Path("docs/images/steps.svg")
CASE = ("vgg16", "128")
ROOM = {"left": 24, "right": 40, "top": 5, "bottom": 5}  # for browsers whose letters are wider than the engine's
BARS = {  # what is drawn of a row, from top to bottom: its label and colour
    "published dlrt": ("DLRT as published", "#c9ced6"),
    "published condlr": ("CondLR as published", "#c9ced6"),
    "dense": ("dense network, SGD", "#6b7280"),
    "dlrt": ("DLRT", "#00875f"),
    "tdlrt": ("TDLRT", "#b0558c"),
    "geolora": ("GeoLoRA", "#b8860b"),
    "condlr": ("CondLR", "#0072b2"),
    "bare": ("bare factors, SGD", "#d55e00"),
}


def chart(row: dict[str, str]) -> alt.LayerChart:
    """Return the chart of one row of the benchmark `steps`: seconds of a step, with its claim above."""
    seconds = {way: float(row["bare ms"]) / 1000 * (1.0 if way == "bare" else float(row[way])) for way in BARS}
    table = pd.DataFrame(
        {"way": label, "seconds": seconds[way], "text": f"{seconds[way]:.2g} s", "colour": colour}
        for way, (label, colour) in BARS.items()
    )
    dense, published = (seconds[way] / seconds["condlr"] for way in ("dense", "published condlr"))
    claim = [
        f"A CondLR step is {dense:.1f} times as fast as a dense one,",
        f"and {published:.1f} times as fast as written in its paper",
    ]
    base = alt.Chart(table).encode(
        y=alt.Y("way:N", sort=None, title=None, axis=alt.Axis(labelLimit=220, ticks=False, domain=False)),
        x=alt.X("seconds:Q", title=None, axis=None),
    )
    bars = base.mark_bar(height=18).encode(color=alt.Color("colour:N", scale=None))
    labels = base.mark_text(align="left", dx=5).encode(text="text:N")
    network, batch = CASE
    below = f"one training step of {network.upper()}, rank 0.2, batches of {batch} images of 32 × 32, one CPU thread"
    return (
        alt.layer(bars, labels)
        .properties(
            width=480, height=26 * len(table), padding=ROOM, title=alt.Title(claim, subtitle=below, anchor="start", offset=12)
        )
        .configure(font=FONT, background="white", view={"stroke": None}, title={"fontSize": 15, "subtitleFontSize": 12})
        .configure_axis(labelFontSize=13)
        .configure_text(fontSize=13)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="?", type=Path, default=RESULTS)
    parser.add_argument("picture", nargs="?", type=Path, default=PICTURE)
    options = parser.parse_args()
    rows = load(options.results)["benchmarks"]["steps"]["rows"]
    row = next((each for each in rows if (each["network"], str(each["batch"])) == CASE), None)
    if row is None:
        parser.error(f"{options.results} has no row for {CASE}: make bench NAME=steps measures it")
    with replacing(options.picture) as temporary:
        temporary.write_text(vl_convert.vegalite_to_svg(json.loads(chart(row).to_json())), encoding="utf-8")


if __name__ == "__main__":
    main()
