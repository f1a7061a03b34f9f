"""The page of compared logs says what the tests support, and works in a browser without a network."""

from pathlib import Path

import numpy as np
import pytest

from robust_lowrank.logs import Log, compare
from robust_lowrank.reporting import paired_report
from tests.browser import CHROMIUM, Opened, launched, overflow


def log(right: np.ndarray) -> Log:
    return Log(Path("a.csv"), "csv", "correct", {str(n): bool(each) for n, each in enumerate(right)}, {}, 0, "ab")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    right = np.arange(200)
    systems = {"first": log(right < 150), "second": log(right < 120), "third": log(right % 10 < 6)}
    return paired_report(compare(systems), tmp_path_factory.mktemp("page"), title="Systems", command="rlr-eval compare *")


def test_the_summary_says_what_is_supported(page: Path) -> None:
    text = page.with_suffix(".md").read_text()
    assert "**first is better than second by 15.0 points.**" in text
    assert (
        "first alone is right on 30 examples, second alone on 0, p &lt; 0.001 (exact McNemar); Holm-corrected over 3 comparisons."
        in text
    )
    assert "- first is better than third by 15.0 points" in text
    assert "Not distinguishable: second and third (p = 1.00)." in text
    assert "With power 80 %, 200 examples show differences from" in text


def test_nothing_is_called_better_where_nothing_is(tmp_path: Path) -> None:
    right = np.arange(20)
    paired = compare({"a": log(right < 12), "b": log(right < 11)})
    text = paired_report(paired, tmp_path, title="t", command="c").with_suffix(".md").read_text()
    assert "**No system is distinguishable from the other on these examples.**" in text
    assert "better" not in text
    assert "left out" not in text
    fewer = {"a": log(right < 12), "b": log(right[:19] < 11)}
    paired_report(compare(fewer, common=True), tmp_path, title="t", command="c")
    assert "1 example that not all of the logs have is left out" in (tmp_path / "compare.md").read_text()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (apt-get install chromium): no page was tried in a browser")
def test_the_page_in_a_browser(page: Path) -> None:
    pytest.importorskip("playwright", reason="no playwright: the pages were not tried in a browser")
    with launched() as browser:
        one = Opened(browser, page)
        assert one.requests == [page.as_uri()]
        one.page.get_by_role("button", name="Accuracy, %").click()
        assert one.column("[data-table=accuracies]", 2) == ["60.0", "60.0", "75.0"]
        one.page.get_by_role("group").get_by_role("button", name="third").click()
        assert one.column("[data-table=tests]", 1) == ["first – second"]
        assert one.complaints == []
        assert overflow(one.page) <= 0
