"""The documentation's site, opened from a disk: it is whole, asks for nothing, and search, theme and formulas work."""

import os
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from filelock import FileLock

from tests.browser import CHROMIUM, Opened, launched, overflow

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow
in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: the site was not tried in a browser")
LOOKS = {
    "desktop": {"viewport": {"width": 1400, "height": 900}},
    "phone": {"viewport": {"width": 390, "height": 844}},
    "dark": {"viewport": {"width": 1400, "height": 900}, "color_scheme": "dark"},
}
PAGES = [
    "index.html",
    "faq.html",
    "cli.html",
    "api.html",
    "evaluation.html",
    "methods/condlr.html",
    "guides/compress-your-cnn.html",
]


class Shown(Opened):
    """A page of the site, which has no charts to wait for: its scripts have begun, and search builds its index."""

    def drawn(self) -> None:
        self.page.wait_for_function("document.documentElement.classList.contains('js')")


class Page(HTMLParser):
    """What a page leads to, and the anchors it has."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.links.append(value)
            if name in ("id", "name") and value:
                self.anchors.add(value)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build it once, whichever of pytest's workers comes first."""
    base = tmp_path_factory.getbasetemp()
    built = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "site"
    with FileLock(f"{built}.lock"):
        if subprocess.run(["make", ".venv-docs/.installed"], cwd=ROOT, capture_output=True, check=False).returncode:
            pytest.skip("no environment for the documentation: no site was built")
        if not built.exists():
            environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
            command = [".venv-docs/bin/mkdocs", "build", "--strict", "--quiet", "--site-dir", str(built)]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
            assert done.returncode == 0, done.stderr
    return built


@pytest.fixture(scope="module")
def browser():
    pytest.importorskip("playwright", reason="no playwright: the site was not tried in a browser")
    with launched() as one:
        yield one


@pytest.fixture
def opened(browser, site: Path) -> Iterator:
    found: list[Shown] = []

    def opening(page: str, **options) -> Shown:
        found.append(Shown(browser, site / page, **options))
        return found[-1]

    yield opening
    for one in found:
        one.context.close()


def test_every_link_and_anchor_leads_somewhere(site: Path) -> None:
    pages = {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}
    assert len(pages) == len(list((ROOT / "docs").rglob("*.md")))
    for path, page in pages.items():
        for link in page.links:
            address = urlsplit(link)
            if address.scheme or address.netloc:
                continue
            target = (path.parent / unquote(address.path)).resolve() if address.path else path
            assert target.is_file(), f"{path}: {link}"
            if address.fragment and target in pages:
                assert unquote(address.fragment) in pages[target].anchors, f"{path}: {link}"


@in_a_browser
@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("address", PAGES)
def test_a_page_asks_for_nothing_complains_of_nothing_and_fits(opened, address: str, look: str) -> None:
    one = opened(address, **LOOKS[look])
    assert {urlsplit(url).scheme for url in one.requests} <= {"file", "data"}
    assert one.complaints == []
    assert overflow(one.page) <= 0
    assert one.page.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")


@in_a_browser
def test_search_finds_pages_from_a_disk(opened) -> None:
    one = opened("index.html", **LOOKS["desktop"])
    query, results = one.page.locator("input[name=query]"), one.page.locator(".md-search-result__item")
    query.fill("Wilson interval")
    for _ in range(100):  # the page listens to keys, but not from its first moment on
        query.press("End")
        one.page.wait_for_timeout(500)
        if results.count():
            break
    assert one.page.locator(".md-search-result__item a[href*='evaluation.html']").count()
    assert {urlsplit(url).scheme for url in one.requests} <= {"file", "data"}


@in_a_browser
def test_the_theme_is_that_of_the_system_until_it_is_switched(opened) -> None:
    one = opened("index.html", **LOOKS["dark"])
    shown = "document.body.dataset.mdColorScheme"
    assert one.page.evaluate(shown) == "slate"
    one.page.locator("label[title=Light]").click()
    assert one.page.evaluate(shown) == "default"
    one.page.reload()
    assert one.page.evaluate(shown) == "default"


@in_a_browser
def test_formulas_are_laid_out(opened) -> None:
    one = opened("methods/condlr.html", **LOOKS["desktop"])
    heights = "[...document.querySelectorAll('.formula mfrac')].map((part) => part.getBoundingClientRect().height)"
    lines = one.page.evaluate("document.querySelector('.formula mi').getBoundingClientRect().height")
    assert all(height > 1.5 * lines for height in one.page.evaluate(heights))
    assert one.page.locator(".formula mfrac").count() == 3
