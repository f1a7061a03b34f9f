"""The files of a report are written whole."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from robust_lowrank.records import replacing, write_frame, write_text, writing
from robust_lowrank.reporting.formats.figures import Figure
from robust_lowrank.reporting.formats.statements import Summary
from robust_lowrank.reporting.formats.style import looks
from robust_lowrank.reporting.output import document, latex, page
from robust_lowrank.reporting.output.page import Drawing, draw
from robust_lowrank.reporting.output.provenance import Provenance
from robust_lowrank.reporting.sections.section import Section

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # beginnings of what a spreadsheet computes


@dataclass(frozen=True)
class Beside:
    """Files beside the page, one content in several formats, and what they hold."""

    paths: tuple[str, ...]
    holds: str


def write_report(
    out: Path,
    name: str,
    *,
    title: str,
    subtitle: str,
    summary: Summary,
    sections: Sequence[Section],
    hero: Figure | None = None,
    provenance: Provenance,
    methods: Mapping[str, str],
    table_name: str,
    table: pd.DataFrame,
) -> Path:
    """Write a report in every format under `out`, the page last, and return the page's path.

    The templates `name`.html and `name`.md show the `sections`; their tables make the LaTeX file, `table` is what the CSV, Parquet
    and JSON files hold. `methods` are those of the series. `hero` stands on top of the page.
    """
    series = looks(methods)
    drawn = sorted(sections, key=lambda section: not section.leading)
    figures = [figure for section in drawn for figure in section.figures]
    drawings = {figure.name: draw(figure, series) for figure in ([hero, *figures] if hero else figures)}
    files = _files(name, table_name, list(drawings.values()))
    context = {"title": title, "subtitle": subtitle, "summary": summary, "provenance": provenance}
    with writing(out):
        for figure, drawing in drawings.items():
            for suffix, content in drawing.paper.items():
                _write_figure(out, f"{figure}.{suffix}", content)
        for picture in [picture for section in sections for picture in section.pictures]:
            _write_figure(out, f"{picture.name}.png", picture.png)
        with replacing(out / f"{table_name}.csv") as temporary:
            _harmless(table).to_csv(temporary, index=False)
        write_frame(out / f"{table_name}.parquet", table)
        with replacing(out / f"{name}.json") as temporary, temporary.open("w", encoding="utf-8") as written:
            written.writelines(document.render(name, table, context, [path for file in files for path in file.paths]))
        tables = [one for section in sections for one in section.tables]
        write_text(out / f"{name}.tex", latex.render(title, provenance, [*tables, *provenance.tables]))
        shown = context | {"sections": sections, "drawings": drawings, "hero": hero.name if hero else ""}
        write_text(out / f"{name}.md", page.markdown(f"{name}.md", **shown))
        write_text(out / f"{name}.html", page.html(f"{name}.html", series, files=files, **shown))
    return out / f"{name}.html"


def _harmless(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose texts a spreadsheet takes for texts: an apostrophe stands before one that begins like a formula."""
    texts = {name: column for name, column in table.items() if not pd.api.types.is_numeric_dtype(column)}
    return table.assign(**{str(name): column.map(_harmless_text) for name, column in texts.items()})


def _harmless_text(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def _write_figure(out: Path, name: str, content: bytes) -> None:
    with replacing(out / "figures" / name) as temporary:
        temporary.write_bytes(content)


def _files(name: str, table_name: str, drawings: Sequence[Drawing]) -> list[Beside]:
    return [
        Beside((f"{name}.md",), "this page as Markdown"),
        Beside((f"{name}.tex",), "its tables for LaTeX (booktabs)"),
        Beside((f"{table_name}.csv",), "every number in full precision, a row an observation"),
        Beside((f"{table_name}.parquet",), "the same with its types"),
        Beside((f"{name}.json",), "the same with the statements on top of this page"),
        *(Beside(tuple(f"figures/{d.figure.name}.{suffix}" for suffix in d.paper), d.figure.title) for d in drawings if d.paper),
    ]
