"""Open pages in a real browser: Debian's Chromium without a window, which reaches this machine alone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, sync_playwright

EMBEDDED = "data:image/svg+xml;base64,"
"""Begins the address of an image that holds the image itself."""
_LIMIT_MS = 120_000
_WIDTHS = """prefix => {
  const images = [...document.images].filter(image => image.src.startsWith(prefix));
  const drawn = images.length > 0 && images.every(image => image.complete && image.naturalWidth > 0);
  return drawn ? images.map(image => image.naturalWidth) : null;
}"""

_WIDE_TABLES = """() => [...document.querySelectorAll('table')]
  .filter(table => table.scrollWidth > table.parentElement.clientWidth + 1)
  .map(table => table.querySelector('tr').innerText)"""


@contextmanager
def open_browser(*, width: int = 1280, height: int = 900, names: str | None = None) -> Iterator[Page]:
    """A page of a new browser, which finds this machine under host names of the pattern `names` too."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    rules = [*([f"MAP {names} 127.0.0.1"] if names else []), "MAP * ~NOTFOUND", "EXCLUDE 127.0.0.1"]
    arguments = ["--no-sandbox", f"--host-resolver-rules={', '.join(rules)}"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        try:
            page = browser.new_page(viewport={"width": width, "height": height})
            page.set_default_timeout(_LIMIT_MS)
            yield page
        finally:
            browser.close()


def image_widths(page: Page, url: str, *, prefix: str = EMBEDDED) -> list[int]:
    """Open a page, and wait until its images whose addresses begin with `prefix` are drawn. Returns their widths."""
    page.goto(url, wait_until="commit")
    widths: list[int] = page.wait_for_function(_WIDTHS, arg=prefix).json_value()  # at once: a page may draw itself anew
    return widths


def wide_tables(page: Page) -> list[str]:
    """The heads of the tables of a page that are wider than their place on it."""
    found: list[str] = page.evaluate(_WIDE_TABLES)
    return found


def show_image(page: Page, place: int, *, prefix: str = EMBEDDED) -> None:
    """Scroll the page to one of those images, by its number from 0."""
    page.locator(f'img[src^="{prefix}"]').nth(place).evaluate("image => image.scrollIntoView()")


def save_screenshot(page: Page, path: Path) -> None:
    """Write what the page shows as a small PNG."""
    with Image.open(BytesIO(page.screenshot())) as image:
        few = image.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE)  # which keeps the colours of small areas
        few.save(path, optimize=True)
