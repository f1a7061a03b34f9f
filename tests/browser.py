"""A page opened in Debian's Chromium, driven by playwright, and what can be asked of it."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TEXTS = (
    "h1, h2, h3, h4, .subtitle, .headline, .evidence, .findings li, .caption, .note, .sub, .value, thead th, .pass, .warn, .fail,"
    "summary, a, button, input, .filter, .result, figcaption, pre, footer"
)


@contextmanager
def launched() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-quic"])
        yield browser
        browser.close()


class Opened:
    """A page with what it asked for and what it complained of."""

    def __init__(self, browser, path: Path, **options) -> None:
        self.context = browser.new_context(**({"viewport": {"width": 1200, "height": 900}} | options))
        self.context.set_default_timeout(60_000)  # of a busy machine
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: message.type in ("error", "warning") and self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(path.as_uri())
        if options.get("java_script_enabled", True):
            self.drawn()

    def drawn(self) -> None:
        """Wait until every chart that can be seen is drawn."""
        shown = "[...document.querySelectorAll('.chart')].filter((place) => !isFolded(place)).length"
        self.page.wait_for_function(f"() => drawing.then(() => views.length >= {shown})")

    def unfold(self) -> None:
        """Open every fold, and wait for the charts within."""
        self.page.evaluate("document.querySelectorAll('details').forEach((fold) => (fold.open = true))")
        self.drawn()

    def column(self, table: str, number: int) -> list[str]:
        return self.page.locator(f"{table} tbody tr:visible > :nth-child({number}) .value").all_inner_texts()


def overflow(page) -> int:
    return page.evaluate("document.scrollingElement.scrollWidth - innerWidth")


def check_contrast(page) -> None:
    """Text against what is painted behind it, as WCAG 2 measures it."""
    pairs = page.evaluate(
        """(texts) => {
          const behind = (element) => {
            const colour = getComputedStyle(element).backgroundColor;
            return colour === "rgba(0, 0, 0, 0)" ? behind(element.parentElement) : colour;
          };
          return [...document.querySelectorAll(texts)].map((e) => [getComputedStyle(e).color, behind(e), e.className || e.tagName]);
        }""",
        TEXTS,
    )
    assert len(pairs) > 50
    for colour, ground, what in pairs:
        assert contrast(parse(colour), parse(ground)) >= 4.5, (what, colour, ground)


def parse(colour: str) -> list[float]:
    if colour.startswith("#"):
        return [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return [float(part) / 255 for part in re.findall(r"[\d.]+", colour)[:3]]


def contrast(first: list[float], second: list[float]) -> float:
    def luminance(colour: list[float]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)
