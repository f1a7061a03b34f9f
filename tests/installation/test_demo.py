"""`rlr-eval demo` from the wheel, in an empty directory: the numbers it makes, and its pages in a browser."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from robust_lowrank import records
from tests.browser import CHROMIUM, Opened, check_contrast, launched, overflow
from tests.installation.conftest import Python

MAIN = "from robust_lowrank.cli import main; main()"


@pytest.mark.slow
def test_demo(installed: Callable[[str], Python], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    python = installed("report,onnx")
    monkeypatch.chdir(tmp_path / "empty")
    done = python("-c", MAIN, "demo", "--seed", 1, "--out", "out")
    assert done.returncode == 0, done.stderr
    runs = [records.read_run(path) for path in Path("out/runs").iterdir()]
    assert {run.record.method for run in runs} == {"dense", "vanilla", "condlr", "dlrt", "tdlrt", "geolora"}
    assert {run.record.seed for run in runs} == {1}
    for run in runs:
        ran = {accuracy.attack for result in run.results.values() for accuracy in result.record.accuracies}
        assert {"clean", "fgsm", "pgd-20", "aa-fast", "worst"} <= ran
        assert run.record.test_accuracy is not None
        assert run.record.test_accuracy > 0.9
    (condlr,) = [run for run in runs if run.record.method == "condlr"]
    trained = condlr.spectra[(condlr.spectra["epoch"] > 0) & condlr.spectra["factored"]]
    assert trained["cond"].max() <= 1.1 + 1e-4
    page = Path("out/report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "Report: out/report.html" in done.stdout
    assert Path("out/report.html").stat().st_size < 3e6
    assert "Next, the rules for publishing" in done.stdout
    done = python("-c", MAIN, "condition", *sorted(Path("out/runs").iterdir()), "--out", "condition")
    assert done.returncode == 0, done.stderr
    if CHROMIUM is None or find_spec("playwright") is None:
        pytest.skip("no Chromium or no playwright: the demo's numbers are right, its pages were not tried in a browser")
    with launched() as browser:
        for page in (Path("out/report.html"), Path("condition/condition.html")):
            for scheme in ("light", "dark"):
                try_page(Opened(browser, page.resolve(), color_scheme=scheme))
            desktop = Opened(browser, page.resolve(), viewport={"width": 1400, "height": 900})
            assert page.name != "report.html" or desktop.page.evaluate("document.body.scrollHeight") <= 6000
            phone = Opened(browser, page.resolve(), viewport={"width": 390, "height": 844}, is_mobile=True)
            assert overflow(phone.page) <= 0
            assert phone.complaints == []


def try_page(one: Opened) -> None:
    """Sort a table, switch a method off, and look for requests, complaints, overflow and faint text."""
    assert len(one.requests) == 1
    assert overflow(one.page) <= 0
    check_contrast(one.page)
    heading = one.page.locator("thead tr:last-child th:visible").nth(1)  # of the first table that is not folded
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    one.page.get_by_role("group", name="Methods shown").get_by_role("button", name="Dense").click()
    one.page.evaluate("drawing.then(() => null)")
    assert not one.page.locator("tbody tr:visible > :first-child").get_by_text("Dense", exact=True).count()
    assert one.complaints == []
