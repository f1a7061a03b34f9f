"""The view of many runs: found by their records, damaged ones listed, one page with all of it."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from robust_lowrank.errors import UserError
from robust_lowrank.records import AuditFinding, Result, Run, RunFiles, write_frame, write_record
from robust_lowrank.reporting.found import find
from robust_lowrank.reporting.view import write_view
from tests.browser import CHROMIUM, launched, overflow

HOSTILE = '<img src=x onerror="window.ran = 1"></script><script>window.ran = 1</script>'
CLEAN = np.arange(50) < 45
AUDIT = [
    AuditFinding(check="gradients", status="pass", message="all gradients are finite"),
    AuditFinding(check="strength", status="warn", message=HOSTILE, remedy="attack again"),
]
Writing = Callable[..., Path]


@pytest.fixture(scope="module")
def written(make_run: Callable[..., Run]) -> Writing:
    """Return what writes a run directory with some results."""

    def write(place: Path, label: str, *results: Result, **options: object) -> Path:
        run, files = make_run(label, **options), RunFiles(place)
        write_record(files.record, run.record)
        write_frame(files.metrics, run.metrics)
        if len(run.spectra):
            write_frame(files.spectra, run.spectra)
        for each in results:
            write_record(files.result(each.record.suite).record, each.record)
        return place

    return write


@pytest.fixture(scope="module")
def directory(written: Writing, make_result: Callable[..., Result], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine runs: six that differ in their robustness, one of another name, one stopped, and one damaged."""
    place = tmp_path_factory.mktemp("many") / "runs"
    for number in range(6):
        held = {("pgd-20", 0.1): np.arange(50) < 7 * number, ("pgd-20", 0.2): np.arange(50) < number}
        weights = {"a": np.diag([10.0**number, 1.0]), "b": np.eye(2)}
        written(place / f"deep/{number}", f"Net {number}", make_result(CLEAN, held, audit=AUDIT), seed=number, weights=weights)
    written(place / "deep/0/forms/int8", "not listed")
    written(place / "odd", HOSTILE, method="condlr")
    written(place / "stopped", "Stopped", status="running", test_accuracy=None)
    RunFiles(written(place / "damaged", "Damaged")).record.write_text('{"label": 1')
    return place


def test_all_runs_are_found_and_damaged_ones_are_listed(directory: Path) -> None:
    runs = {run.path.relative_to(directory).as_posix(): run for run in find(directory)}
    assert list(runs) == ["damaged", *(f"deep/{number}" for number in range(6)), "odd", "stopped"]
    assert runs["deep/3"].condition == ("a", 1000.0)
    assert list(runs["deep/3"].results) == ["quick"]
    assert runs["damaged"].record is None
    assert "run.json cannot be read" in runs["damaged"].faults[0]
    assert not runs["odd"].results and runs["odd"].condition is None


def test_results_of_another_network_and_links_are_faults(
    written: Writing, make_result: Callable[..., Result], tmp_path: Path
) -> None:
    result = make_result(CLEAN, {("fgsm", 0.1): CLEAN})
    written(tmp_path / "a", "A", result, hashes={"weights": "ee"})
    RunFiles(written(tmp_path / "b", "B", result)).result("quick").record.write_text("[]")
    (written(tmp_path / "c", "C") / "metrics.parquet").unlink()
    (tmp_path / "c/metrics.parquet").symlink_to("/etc/hostname")
    (tmp_path / "d").symlink_to(tmp_path / "a")
    a, b, c = find(tmp_path)
    assert "is of another network" in a.faults[0] and not a.results
    assert "result.json cannot be read" in b.faults[0] and b.record is not None
    assert "is a link out of the run directory" in c.faults[0] and c.record is None


def test_what_is_refused(written: Writing, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place, said in (("empty", "no run directories below"), ("nothing", "is no directory"), ("run", "is a run directory: name")):
        if place == "run":
            written(tmp_path / place, "A")
        with pytest.raises(UserError, match=said):
            find(tmp_path / place)


@pytest.fixture(scope="module")
def page(directory: Path) -> Path:
    return write_view(find(directory), directory, directory / "view.html", command="rlr-eval view runs")


def test_the_page_shows_every_run_and_what_strangers_wrote_as_text(page: Path) -> None:
    text = page.read_text()
    assert text.count('href="#run-') == 9
    assert "<img src=x" not in text and "</script><script>window" not in text
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//|@import|url\(""", text)
    runs = json.loads(re.search(r'<script type="application/json" id="runs">(.*?)</script>', text, re.DOTALL)[1])
    assert [run["title"] for run in runs] == ["damaged", *(f"Net {number}" for number in range(6)), HOSTILE, "Stopped"]
    assert runs[4]["accuracies"][-1][:4] == ["quick", "worst", "L∞ 0.2", "6.0"]
    assert ["warn", "quick", "strength", f"{HOSTILE} attack again"] in runs[4]["audit"]
    assert "9 runs, 1 unfinished, 1 damaged" in text


@pytest.fixture(scope="module")
def browser() -> Iterator:
    if CHROMIUM is None:
        pytest.skip("no Chromium (apt-get install chromium): no page was tried in a browser")
    pytest.importorskip("playwright", reason="no playwright: the pages were not tried in a browser")
    with launched() as one:
        yield one


@pytest.fixture
def opened(browser, page: Path) -> Iterator:
    contexts = []

    def opening(address: str = "", **options) -> SimpleNamespace:
        context = browser.new_context(**({"viewport": {"width": 1200, "height": 900}} | options))
        contexts.append(context)
        context.set_default_timeout(120_000)  # of a busy machine
        one = SimpleNamespace(page=context.new_page(), requests=[], complaints=[])
        one.page.on("request", lambda request: one.requests.append(request.url))
        one.page.on("console", lambda message: message.type in ("error", "warning") and one.complaints.append(message.text))
        one.page.on("pageerror", lambda error: one.complaints.append(str(error)))
        one.page.goto(page.as_uri() + address)
        return one

    yield opening
    for context in contexts:
        context.close()


def names(page) -> list[str]:
    return page.locator("[data-table=runs] tbody tr:visible > :first-child .value").all_inner_texts()


@pytest.mark.slow
def test_sorting_filtering_and_the_panel(opened) -> None:
    one = opened()
    page, panel = one.page, one.page.locator("dialog")
    heading = page.get_by_role("button", name="0.1", exact=True)
    heading.click()
    assert names(page)[:6] == [f"Net {number}" for number in range(6)]
    heading.press("Enter")
    assert names(page)[:6] == [f"Net {number}" for number in reversed(range(6))]
    page.get_by_role("searchbox").fill("condlr")
    assert names(page) == [HOSTILE]
    page.get_by_role("searchbox").fill("")
    page.locator("tbody tr", has_text="Net 3").locator("td").nth(2).click()
    panel.wait_for()
    assert "Net 3" in panel.inner_text() and "all gradients are finite" in panel.inner_text()
    assert page.evaluate("location.hash") == "#run-4"
    page.keyboard.press("Escape")
    page.wait_for_function("location.hash === ''")
    assert not panel.is_visible()
    page.get_by_role("link", name="damaged").press("Enter")
    panel.wait_for()
    assert "run.json cannot be read" in panel.inner_text()
    page.go_back()
    panel.wait_for(state="hidden")
    page.get_by_role("link", name="<img").click()
    panel.get_by_role("button", name="Close").click()
    assert page.evaluate("window.ran") is None
    assert one.complaints == [] and len({url.partition("#")[0] for url in one.requests}) == 1


@pytest.mark.slow
def test_a_link_to_a_run_on_a_phone_in_the_dark_and_on_paper(opened) -> None:
    phone = opened("#run-3", viewport={"width": 380, "height": 700}, color_scheme="dark").page
    assert phone.locator("dialog").is_visible() and "Net 2" in phone.locator("dialog h2").inner_text()
    assert overflow(phone) <= 0
    assert phone.evaluate("getComputedStyle(document.querySelector('dialog')).backgroundColor") == "rgb(18, 22, 28)"
    phone.get_by_role("button", name="Close").click()
    assert overflow(phone) <= 0
    phone.emulate_media(media="print")
    assert not phone.locator("dialog").is_visible()
    assert phone.locator("tbody tr:visible").count() == 9
    plain = opened(java_script_enabled=False).page
    assert plain.locator("tbody tr:visible").count() == 9
