import altair as alt
import pandas as pd

from robust_lowrank.reporting.comparing.evidence import Evidence, gather
from robust_lowrank.reporting.formats.figures import Figure, Panel
from robust_lowrank.reporting.formats.statements import Summary
from robust_lowrank.reporting.formats.tables import Cell, Column, Table
from robust_lowrank.reporting.output.files import write_report
from robust_lowrank.reporting.output.provenance import Provenance
from robust_lowrank.reporting.sections.registry import COMPARISON, CONDITION, find_sections
from robust_lowrank.reporting.sections.section import Section


class Another(Section):
    """A section that no template and no report knows."""

    slug = "another"
    heading = "Another view"
    statement = "What there is to see."
    chart = alt.Chart(pd.DataFrame({"x": [1, 2]})).mark_point().encode(x="x:Q")
    figure = Figure("another", "A figure", "Two points.", "How to read it.", (), (Panel(chart),))
    table = Table("another", "A table.", (Column("Name", numeric=False),), ((Cell("one"),),))


def test_a_section_is_a_class_and_a_line(tmp_path):
    sections = find_sections((lambda evidence: [Another()],), Evidence(()))
    made = Provenance("x", "now", "p", "m", (Table("runs", "Runs.", (Column("Run"),), ()),), ())
    summary = Summary("h", "", ())
    names = {"title": "t", "subtitle": "", "table_name": "results", "table": pd.DataFrame({"a": [1]})}
    write_report(tmp_path, "report", summary=summary, sections=sections, provenance=made, methods={}, **names)
    page, text = (tmp_path / "report.html").read_text("utf-8"), (tmp_path / "report.md").read_text("utf-8")
    assert '<h2 id="another">Another view</h2>' in page and '<figure id="figure-another">' in page
    assert "## Another view\n\nWhat there is to see.\n" in text and "](figures/another.svg)" in text and "| one |" in text
    assert r"\label{tab:another}" in (tmp_path / "report.tex").read_text("utf-8")
    assert (tmp_path / "figures" / "another.pdf").is_file()


def test_anchors_are_unique(trained):
    for finders in (COMPARISON, CONDITION):
        slugs = [section.slug for section in find_sections(finders, gather(trained))]
        assert len(slugs) == len(set(slugs)) >= 2
