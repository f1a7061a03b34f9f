"""The files of a report, written at once each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from robust_lowrank.records import replacing, write_frame, write_text
from robust_lowrank.reporting.comparing.entries import Entry
from robust_lowrank.reporting.output import document, latex, page
from robust_lowrank.reporting.output.page import Drawing
from robust_lowrank.reporting.sections.gallery import Picture

FORMATS = ("pdf", "svg", "png")


@dataclass(frozen=True)
class Beside:
    """Files beside the page, one content in several formats, and what they hold."""

    paths: tuple[str, ...]
    holds: str


def write_report(
    out: Path,
    name: str,
    *,
    entries: Sequence[Entry],
    drawings: Sequence[Drawing],
    table_name: str,
    table: pd.DataFrame,
    context: Mapping[str, Any],
) -> Path:
    """Write a report in every format under `out`, the page last, and return the page's path.

    `context` is what the templates `name`.html and `name`.md show; the tables in it make the LaTeX file, `table` is what the
    CSV, Parquet and JSON files hold.
    """
    files = _files(name, table_name, drawings)
    for drawing in drawings:
        for suffix, content in (("svg", drawing.paper.svg.encode()), ("pdf", drawing.paper.pdf), ("png", drawing.paper.png)):
            with replacing(out / "figures" / f"{drawing.figure.name}.{suffix}") as temporary:
                temporary.write_bytes(content)
    with replacing(out / f"{table_name}.csv") as temporary:
        table.to_csv(temporary, index=False)
    write_frame(out / f"{table_name}.parquet", table)
    write_text(out / f"{name}.json", document.render(name, table, context, [path for file in files for path in file.paths]))
    write_text(out / f"{name}.tex", latex.render(context))
    write_text(out / f"{name}.md", page.markdown(f"{name}.md", drawings=drawings, **context))
    write_text(out / f"{name}.html", page.html(f"{name}.html", entries, drawings=drawings, files=files, **context))
    return out / f"{name}.html"


def write_pictures(out: Path, pictures: Sequence[Picture]) -> None:
    """Write the pictures of galleries as PNG beside the figures."""
    for picture in pictures:
        with replacing(out / "figures" / f"{picture.name}.png") as temporary:
            temporary.write_bytes(picture.png)


def _files(name: str, table_name: str, drawings: Sequence[Drawing]) -> list[Beside]:
    return [
        Beside((f"{name}.md",), "this page as Markdown"),
        Beside((f"{name}.tex",), "its tables for LaTeX (booktabs)"),
        Beside((f"{table_name}.csv",), "every number in full precision, a row an observation"),
        Beside((f"{table_name}.parquet",), "the same with its types"),
        Beside((f"{name}.json",), "the same with the statements on top of this page"),
        *(Beside(tuple(f"figures/{d.figure.name}.{suffix}" for suffix in FORMATS), d.figure.title) for d in drawings),
    ]
