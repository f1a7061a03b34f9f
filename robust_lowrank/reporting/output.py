"""The files of a report, written at once each."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from robust_lowrank.records import replacing, write_text
from robust_lowrank.reporting.gallery import Picture
from robust_lowrank.reporting.page import Drawing


def write_report(
    out: Path, name: str, *, page: str, text: str, table_name: str, table: pd.DataFrame, drawings: Iterable[Drawing]
) -> Path:
    """Write figures, table, Markdown and page under `out`, the page last, and return the page's path."""
    for drawing in drawings:
        write_text(out / "figures" / f"{drawing.figure.name}.svg", drawing.svg)
        with replacing(out / "figures" / f"{drawing.figure.name}.pdf") as temporary:
            temporary.write_bytes(drawing.pdf)
    with replacing(out / f"{table_name}.csv") as temporary:
        table.to_csv(temporary, index=False)
    write_text(out / f"{name}.md", text)
    write_text(out / f"{name}.html", page)
    return out / f"{name}.html"


def write_pictures(out: Path, pictures: Iterable[Picture]) -> None:
    """Write the pictures of galleries as PNG beside the figures."""
    for picture in pictures:
        with replacing(out / "figures" / f"{picture.name}.png") as temporary:
            temporary.write_bytes(picture.png)
