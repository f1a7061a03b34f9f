"""The page in a real browser: Debian's Chromium, driven by playwright, without a network."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from robust_lowrank.reporting import comparison_report, condition_report
from tests.browser import CHROMIUM, Opened, check_contrast, contrast, launched, overflow, parse

HOSTILE = (
    '<script>window.ran = 1</script>"><img src=x onerror="window.ran = 1">',
    "` | * $x$ </script><script>window.ran = 1</script>",
)
RIGHT = np.arange(100) < 70
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (apt-get install chromium): no page was tried in a browser"),
]


@pytest.fixture(scope="module")
def browser():
    pytest.importorskip("playwright", reason="no playwright: the pages were not tried in a browser")
    with launched() as one:
        yield one


@pytest.fixture(scope="module")
def reports(trained, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("pages")
    comparison_report(trained, out, title="Digits", command="rlr-eval report runs/*")
    condition_report(trained, out, title="Layers", command="rlr-eval condition runs/*")
    return out


@pytest.fixture(scope="module", params=["report", "condition"])
def address(request, reports) -> Path:
    return reports / f"{request.param}.html"


@pytest.fixture
def opened(browser) -> Iterator:
    found: list[Opened] = []

    def opening(path: Path, **options) -> Opened:
        found.append(Opened(browser, path, **options))
        return found[-1]

    yield opening
    for one in found:
        one.context.close()


def test_a_page_draws_its_charts_asks_for_nothing_and_complains_of_nothing(opened, address):
    one = opened(address)
    assert one.requests == [address.as_uri()]
    assert one.complaints == []
    one.unfold()
    charts = one.page.locator(".chart")
    assert charts.count() >= 4
    for chart in charts.all():
        assert chart.locator("svg .mark-symbol path, svg .mark-line path").count()
        box = chart.locator("svg").bounding_box()
        assert box["width"] > 100 and box["height"] > 100
    assert overflow(one.page) <= 0
    assert not one.page.locator(".still:visible").count()
    assert one.complaints == []


def test_a_heading_sorts_up_down_and_back(opened, reports):
    one = opened(reports / "report.html")
    table = "[data-table=comparison-quick-linf]"
    heading = one.page.locator(f"{table} thead tr:last-child th").nth(3)
    before = one.column(table, 4)
    numbers = [float(re.match(r"[\d.]+", text)[0]) for text in before]
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    first = [float(re.match(r"[\d.]+", text)[0]) for text in one.column(table, 4)]
    assert first == sorted(numbers) != numbers
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    second = [float(re.match(r"[\d.]+", text)[0]) for text in one.column(table, 4)]
    assert second == sorted(numbers, reverse=True)
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") is None
    assert one.column(table, 4) == before


def test_sorting_is_by_value_and_leaves_missing_ones_last(opened, make_run, tmp_path):
    weights = {"big": [1e7, 1.0], "none": [1.0, 0.0], "small": [2.0, 1.0], "middle": [500.0, 1.0], "twin": [2.0, 1.0]}
    run = make_run("a", weights={name: np.diag(values) for name, values in weights.items()})
    run.spectra.loc[run.spectra["layer"] == "middle", "orthonormality"] = 1e-3
    condition_report([run], tmp_path, title="t", command="x")
    one = opened(tmp_path / "condition.html")
    table = "[data-table='layers of a']"
    names = lambda: one.column(table, 1)  # noqa: E731
    assert names() == ["none", "big", "middle", "small", "twin"]
    cond = one.page.locator(f"{table} thead th").nth(4).get_by_role("button")
    cond.click()
    assert names() == ["small", "twin", "middle", "big", "none"]
    defect = one.page.locator(f"{table} thead th").nth(8).get_by_role("button")
    defect.click()
    assert names() == ["middle", "none", "big", "small", "twin"]
    defect.click()
    assert names() == ["middle", "none", "big", "small", "twin"]


def test_the_keyboard_reaches_and_presses_every_control(opened, reports):
    one = opened(reports / "report.html")
    table = one.page.locator("[data-table=comparison-quick-linf]")
    table.locator(".scroll").focus()
    one.page.keyboard.press("Tab")
    heading = table.locator("thead tr:last-child th").first
    assert heading.locator("button").evaluate("button => button === document.activeElement")
    one.page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    one.page.keyboard.press("Space")
    assert heading.get_attribute("aria-sort") == "descending"
    one.page.get_by_role("group", name="Methods shown").get_by_role("button").first.focus()
    one.page.keyboard.press("Space")
    assert one.page.get_by_role("button", name="Dense", pressed=False).count() == 1


def test_a_filter_shows_matching_rows_and_says_how_many(opened, reports):
    one = opened(reports / "report.html")
    one.unfold()
    block = one.page.locator(".table:has(.filter)", has_text="Dense").first
    rows = block.locator("tbody tr")
    total = rows.count()
    assert total > 6
    block.get_by_role("searchbox").fill("dense")
    shown = block.locator("tbody tr:visible").count()
    assert 0 < shown < total
    assert block.get_by_role("status").inner_text() == f"{shown} of {total} rows"
    block.get_by_role("searchbox").fill("")
    assert block.locator("tbody tr:visible").count() == total
    assert block.get_by_role("status").inner_text() == ""


def test_a_method_leaves_every_chart_table_and_legend(opened, address):
    one = opened(address)
    page = one.page
    one.unfold()
    marks = "[...document.querySelectorAll('.chart')].map((c) => c.querySelectorAll('.mark-symbol path, .mark-line path').length)"
    before = page.evaluate(marks)
    button = page.get_by_role("group", name="Methods shown").get_by_role("button", name="Dense")
    button.click()
    page.evaluate("drawing.then(() => null)")
    assert button.get_attribute("aria-pressed") == "false"
    assert all(now < then for now, then in zip(page.evaluate(marks), before, strict=True))
    index = page.evaluate("methods.findIndex((button) => button.dataset.name === 'Dense')")
    theirs = page.locator(f'[data-series~="{index}"]')
    assert theirs.count() > 3
    assert not [element for element in theirs.all() if element.is_visible()]
    assert page.locator("tbody tr:visible", has_text="Vanilla").count()
    page.get_by_role("button", name=re.compile("theme")).click()
    one.drawn()
    assert all(now < then for now, then in zip(page.evaluate(marks), before, strict=True))
    button.click()
    page.evaluate("drawing.then(() => null)")
    assert page.evaluate(marks) == before
    assert one.complaints == []


def test_folded_charts_are_drawn_when_they_are_asked_for(opened, reports):
    one = opened(reports / "report.html")
    page = one.page
    folded = page.locator("main > * details:has(.chart)").first
    assert not folded.locator("svg.marks").count()
    page.get_by_role("group", name="Methods shown").get_by_role("button", name="Dense").click()
    folded.locator("summary").first.click()
    one.drawn()
    chart = folded.locator(".chart").first
    assert chart.locator("svg").bounding_box()["width"] > 100
    assert page.evaluate("views.every(({ view }) => view.signal('hidden').length === 1)")
    assert one.complaints == []


def test_the_contents_lead_everywhere_and_say_where_the_reader_is(opened, reports):
    one = opened(reports / "report.html", viewport={"width": 1400, "height": 900})
    page = one.page
    links = page.get_by_role("navigation", name="Contents").get_by_role("link")
    headings = page.locator("main h2")
    assert links.count() == headings.count() > 5
    for link in links.all():
        link.click()
        target = page.locator(f"[id='{link.get_attribute('href')[1:]}']")
        assert target.is_visible()
        assert target.evaluate("heading => !heading.closest('details') || heading.closest('details').open")
    last = links.last
    last.click()
    page.wait_for_function("!!document.querySelector('.contents [aria-current]')")
    assert page.locator(".contents [aria-current='location']").count() == 1
    assert one.complaints == []


def test_the_first_screen_holds_the_claim_and_one_chart(opened, reports):
    one = opened(reports / "report.html", viewport={"width": 1400, "height": 900})
    summary = one.page.get_by_role("region", name="Summary")
    box = summary.locator("figure svg").first.bounding_box()
    assert box["y"] + box["height"] < 900
    sentences = summary.locator(".headline, .evidence, .findings li").all()
    assert len([each for each in sentences if each.is_visible()]) <= 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_colour_schemes_are_legible_and_can_be_switched(opened, reports, scheme):
    one = opened(reports / "report.html", color_scheme=scheme)
    other = {"light": "dark", "dark": "light"}[scheme]
    paper = "getComputedStyle(document.body).backgroundColor"
    first = one.page.evaluate(paper)
    check_contrast(one.page)
    one.page.get_by_role("button", name=f"Switch to the {other} theme").click()
    one.drawn()
    assert one.page.evaluate(paper) != first
    check_contrast(one.page)
    labels = one.page.locator(".chart svg .role-axis-label text").first.evaluate("text => text.getAttribute('fill')")
    assert contrast(parse(labels), parse(one.page.evaluate(paper))) >= 4.5
    assert one.complaints == []


def test_a_phone_shows_the_page_without_sideways_scrolling(opened, address):
    one = opened(address, viewport={"width": 390, "height": 844}, device_scale_factor=2, is_mobile=True)
    assert one.page.locator("main").bounding_box()["width"] > 340
    assert overflow(one.page) <= 0
    one.unfold()
    assert overflow(one.page) <= 0
    wide = one.page.locator(".scroll").evaluate_all("all => all.filter((e) => e.scrollWidth > e.clientWidth).length")
    assert wide
    for chart in one.page.locator(".chart svg").all():
        assert chart.bounding_box()["width"] <= 390


def test_paper_shows_everything_in_its_first_order(opened, reports):
    one = opened(reports / "report.html")
    page = one.page
    table = "[data-table=comparison-quick-linf]"
    before = one.column(table, 1)
    page.locator(f"{table} thead tr:last-child th").nth(3).get_by_role("button").click()
    page.locator(".methods button").first.click()
    sorted_ = one.column(table, 1)
    assert sorted_ != before
    folded = page.locator("details:not([open])").count()
    assert folded
    page.emulate_media(media="print")
    page.wait_for_function("!document.querySelector('details:not([open])')")
    assert one.column(table, 1) == before
    assert page.locator("tbody tr").count() == page.locator("tbody tr:visible").count()
    assert page.locator(".still:visible").count() == page.locator("figure").count()
    assert not page.locator(".methods:visible, .filter:visible, #theme:visible, .panels:visible").count()
    page.emulate_media(media="screen")
    page.wait_for_function("!!document.querySelector('details:not([open])')")
    assert one.column(table, 1) == sorted_
    assert page.locator("details:not([open])").count() == folded


def test_the_printed_pages_hold_the_whole_report(opened, reports, tmp_path):
    one = opened(reports / "report.html")
    one.page.evaluate("addEventListener('beforeprint', () => (window.height = document.body.scrollHeight))")
    heights = one.page.evaluate("document.body.scrollHeight")
    one.page.pdf(path=tmp_path / "printed.pdf", format="A4")
    assert one.page.evaluate("height") > heights
    assert not one.page.evaluate("onPaper")
    assert one.complaints == []


def test_without_scripts_tables_are_plain_and_charts_are_pictures(opened, address):
    one = opened(address, java_script_enabled=False)
    unfolded = one.page.locator("figure:not(details figure)")
    assert one.page.locator(".still:visible").count() == unfolded.count() > 0
    assert not one.page.locator("button:visible, input").count()
    assert one.page.locator("tbody tr:visible").count()


def test_a_chart_tells_its_values_under_the_pointer(opened, reports):
    one = opened(reports / "report.html")
    one.page.locator(".chart svg .mark-symbol path").first.hover()
    tip = one.page.locator("#vg-tooltip-element.visible")
    tip.wait_for()
    assert "Robust accuracy" in tip.inner_text()
    assert re.search(r"\d+(\.\d)?%", tip.inner_text())
    assert one.page.locator("[data-table=comparison-quick-linf] [title*=' of 150 correct']").count()


def test_no_name_runs_as_a_script(opened, make_run, make_result, tmp_path):
    runs = [
        make_run(
            name,
            method="condlr",
            model=name,
            data=HOSTILE[0],
            results=[make_result(RIGHT, {("fgsm", 0.1): RIGHT})],
            weights={name: np.diag([2.0, 1.0])},
            config={"note": name, "number": i},
            path=f"runs/{i}",
        )
        for i, name in enumerate(HOSTILE)
    ]
    comparison_report(runs, tmp_path, title=HOSTILE[0], command=HOSTILE[1])
    condition_report(runs, tmp_path, title=HOSTILE[1], command=HOSTILE[0])
    for name in ("report", "condition"):
        one = opened(tmp_path / f"{name}.html")
        one.page.locator(".methods button").first.click()
        one.page.locator(".chart svg .mark-symbol path, .chart svg .mark-line path").first.hover(force=True)
        one.page.evaluate("drawing.then(() => null)")
        assert one.page.evaluate("window.ran") is None
        assert one.complaints == []
        assert one.requests == [(tmp_path / f"{name}.html").as_uri()]
        assert HOSTILE[0] in one.page.locator("main").inner_text()
        assert not one.page.locator("img:not(.still)").count()
