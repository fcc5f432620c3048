"""Rewrite the HTML pages of great-expectations: load nothing from other hosts, and explain each table at its top.

great-expectations writes pages that load styles and scripts from public hosts, show a logo from another host, and link
to its maker's site. This module changes each page to load the same assets from a local directory, into which
`make setup` lets npm download them (`infra/docs_assets.py`), and removes all references to other hosts. If an asset is
missing, its reference is removed too: the page is unstyled but complete. Each page begins with a description of its
table for readers who have never seen a GGUF, and with the list of its expectations and whether they hold.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Final

from paddock.plain_text import one_line
from paddock.store import durable
from paddock.validation.expectations import CheckedTable

ASSETS_DIRECTORY: Final = "docs-assets"
"""The directory below `${XDG_CACHE_HOME}/paddock` with the assets that npm downloaded."""
_UNUSED = ("glossary_scroller.gif", "validation_failed_unexpected_values.gif", "iterative-dev-loop.png")


@dataclass(frozen=True, slots=True)
class Asset:
    """A style or script that pages load: one file of an npm package. `needs` is a directory of the package with files
    that it refers to."""

    package: str
    version: str
    file: str
    needs: str | None = None

    @property
    def path(self) -> str:
        """The path below the directory of assets. It includes the version, so that versions can coexist."""
        return f"{self.package}/{self.version}/{self.file}"


_TABLE = ("bootstrap-table", "1.19.1")
ASSETS_BY_FILE_NAME: Final = {
    "bootstrap.min.css": Asset("bootstrap", "4.3.1", "dist/css/bootstrap.min.css"),
    "bootstrap.min.js": Asset("bootstrap", "4.3.1", "dist/js/bootstrap.min.js"),
    "jquery-3.7.1.min.js": Asset("jquery", "3.7.1", "dist/jquery.min.js"),
    "popper.min.js": Asset("popper.js", "1.16.1", "dist/umd/popper.min.js"),
    "bootstrap-table.min.css": Asset(*_TABLE, "dist/bootstrap-table.min.css"),
    "bootstrap-table.min.js": Asset(*_TABLE, "dist/bootstrap-table.min.js"),
    "bootstrap-table-filter-control.css": Asset(
        *_TABLE, "dist/extensions/filter-control/bootstrap-table-filter-control.css"
    ),
    "bootstrap-table-filter-control.min.css": Asset(
        *_TABLE, "dist/extensions/filter-control/bootstrap-table-filter-control.min.css"
    ),
    "bootstrap-table-filter-control.min.js": Asset(
        *_TABLE, "dist/extensions/filter-control/bootstrap-table-filter-control.min.js"
    ),
    "bootstrap-datepicker.min.css": Asset("bootstrap-datepicker", "1.9.0", "dist/css/bootstrap-datepicker.min.css"),
    "bootstrap-datepicker.min.js": Asset("bootstrap-datepicker", "1.9.0", "dist/js/bootstrap-datepicker.min.js"),
    "all.min.css": Asset("@fortawesome/fontawesome-free", "6.6.0", "css/all.min.css", needs="webfonts"),
    "bootstrap-prefers-dark.css": Asset("@forevolve/bootstrap-dark", "1.1.0", "dist/css/bootstrap-prefers-dark.css"),
}
"""Assets by the file name in the addresses of great-expectations' pages, whatever their host. Vega is not among them,
because no charts are drawn."""

_HOST = r"(?:https?:)?//[^\"'\s<>()]+"
_LOADED = re.compile(
    rf"<(?P<tag>link|script)\b[^>]*?\b(?:href|src)=\"(?P<url>{_HOST})\"[^>]*>(?:\s*</script>)?", re.IGNORECASE
)
_LOGO = re.compile(rf"<img\b[^>]*\bsrc=\"{_HOST}\"[^>]*>", re.IGNORECASE)
_BACKGROUND = re.compile(rf"background(?:-image)?:\s*url\(['\"]?{_HOST}['\"]?\)[^;}}]*;?", re.IGNORECASE)
_NEWSLETTER = re.compile(r"<footer>\s*<p>Stay current.*?</footer>", re.DOTALL)
_BODY = '<div class="container-fluid pt-4 pb-4 pl-5 pr-5">'
_ICON = re.compile(r"<link rel=\"shortcut icon\"[^>]*>")  # its relative address is wrong on most pages
_LINK = re.compile(rf"<a\b[^>]*\bhref=\"{_HOST}\"[^>]*>(?P<text>.*?)</a>", re.DOTALL | re.IGNORECASE)


def rewrite_pages(docs: Path, checked: Sequence[CheckedTable], *, title: str, assets: Path, shared: Path) -> None:
    """Rewrite all pages below `docs`, and copy the assets that they load into `shared`.

    `assets` is the directory of npm packages; it need not exist. `shared` may serve several Data Docs.
    """
    introductions = {result.table.name: _table_introduction(result) for result in checked}
    for asset in ASSETS_BY_FILE_NAME.values():
        _share(assets, shared, asset)
    for name in _UNUSED:
        (docs / "static" / "images" / name).unlink(missing_ok=True)
    for page in docs.rglob("*.html"):
        parts = (part.removesuffix(".html") for part in page.relative_to(docs).parts)
        introduction = next(
            (introductions[part] for part in parts if part in introductions), _index_introduction(title, checked)
        )
        html = without_other_hosts(page.read_text(), base=_relative_url(page, shared), assets=shared)
        before, body, after = html.partition(_BODY)
        page.write_text(before + body + introduction + after)


def without_other_hosts(html: str, *, base: str, assets: Path) -> str:
    """Remove all references to other hosts from a page. `base` is the relative URL of the directory `assets`."""

    def local_tag(found: re.Match[str]) -> str:
        asset = ASSETS_BY_FILE_NAME.get(found["url"].split("?")[0].rsplit("/", 1)[-1])
        if asset is None or not (assets / asset.path).exists():
            return ""
        if found["tag"].lower() == "script":
            return f'<script src="{base}/{asset.path}"></script>'
        return f'<link rel="stylesheet" href="{base}/{asset.path}">'

    html = _LOADED.sub(local_tag, _ICON.sub("", html))
    html = _LOGO.sub("<strong>Paddock</strong>", html)
    html = _BACKGROUND.sub("", html)
    html = _NEWSLETTER.sub("", html)
    return _LINK.sub(lambda found: found["text"], html)


def _index_introduction(title: str, checked: Sequence[CheckedTable]) -> str:
    tables = [(result.table, len(result.table.expectations), len(result.failed)) for result in checked]
    rows = "".join(
        f"<li><strong>{_html(table.name)}</strong>: {len(table.rows)} rows, "
        f"{count - failed} of {count} expectations hold</li>"
        for table, count, failed in tables
    )
    return (
        f'<section class="mb-4"><h4>{_html(title)}</h4><p>Tables that describe this model, checked by '
        f"great-expectations. Each line of the list below links to the results for one of them.</p>"
        f"<ul>{rows}</ul></section>"
    )


def _table_introduction(result: CheckedTable) -> str:
    table = result.table
    items = "".join(
        f"<li>{'✗ failed: ' if expectation in result.failed else '✓ '}{_html(expectation.description)}</li>"
        for expectation in table.expectations
    )
    return (
        f'<section class="mb-4"><h4>{_html(table.name.capitalize())}</h4><p>{_html(table.description)}</p>'
        f'<ul class="list-unstyled">{items}</ul></section>'
    )


def _html(text: str) -> str:
    return escape(one_line(text))


def _share(assets: Path, shared: Path, asset: Asset) -> None:
    """Copy an asset, atomically: other processes must never see a partial file, even if this one is killed.

    The main file is copied last, because its presence marks the asset as complete.
    """
    source = assets / asset.package
    if (shared / asset.path).exists() or not (source / asset.file).exists():
        return
    if asset.needs:
        for file in sorted((source / asset.needs).iterdir()):
            _copy(file, shared / asset.package / asset.version / asset.needs / file.name)
    _copy(source / asset.file, shared / asset.path)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    durable.write_atomically(target, source.read_bytes())


def _relative_url(page: Path, directory: Path) -> str:
    """The URL of a directory, relative to a page."""
    common = next(parent for parent in page.parents if directory.is_relative_to(parent))
    ups = len(page.parent.relative_to(common).parts)
    return "/".join([".."] * ups + list(directory.relative_to(common).parts))
