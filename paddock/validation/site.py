"""Makes Data Docs readable: without any other host, and by someone who has never seen a GGUF.

great-expectations writes pages that load styles and scripts from public hosts, show a logo from another, and link to
its maker's site. Here each page is changed to load the same from `assets` beside it, where `make setup` had npm fetch
them (`infra/docs_assets.py`), and to name no other host: what is not there is left out, and the page is plain, but
whole. And each begins with what its table is, and in plain words which laws hold.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Final

from paddock.store import durable
from paddock.validation.expectations import Held

ASSETS: Final = "docs-assets"
"""The folder below `${XDG_CACHE_HOME}/paddock` where npm put them."""
_UNUSED = ("glossary_scroller.gif", "validation_failed_unexpected_values.gif", "iterative-dev-loop.png")


@dataclass(frozen=True, slots=True)
class Asset:
    """What a page loads: a file of a package in npm's registry. `kept` is the folder of it that the file needs."""

    package: str
    version: str
    file: str
    kept: str | None = None

    @property
    def path(self) -> str:
        """Below the folder of assets: another one for each version."""
        return f"{self.package}/{self.version}/{self.file}"


_TABLE = ("bootstrap-table", "1.19.1")
ASSET_OF: Final = {
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
    "all.min.css": Asset("@fortawesome/fontawesome-free", "6.6.0", "css/all.min.css", kept="webfonts"),
    "bootstrap-prefers-dark.css": Asset("@forevolve/bootstrap-dark", "1.1.0", "dist/css/bootstrap-prefers-dark.css"),
}
"""By the name that great-expectations' pages call the file, whatever the host. Its charts are not drawn here, so vega
is not among them."""

_HOST = r"(?:https?:)?//[^\"'\s<>()]+"
_LOADED = re.compile(
    rf"<(?P<tag>link|script)\b[^>]*?\b(?:href|src)=\"(?P<url>{_HOST})\"[^>]*>(?:\s*</script>)?", re.IGNORECASE
)
_LOGO = re.compile(rf"<img\b[^>]*\bsrc=\"{_HOST}\"[^>]*>", re.IGNORECASE)
_BACKGROUND = re.compile(rf"background(?:-image)?:\s*url\(['\"]?{_HOST}['\"]?\)[^;}}]*;?", re.IGNORECASE)
_NEWSLETTER = re.compile(r"<footer>\s*<p>Stay current.*?</footer>", re.DOTALL)
_BODY = '<div class="container-fluid pt-4 pb-4 pl-5 pr-5">'
_ICON = re.compile(r"<link rel=\"shortcut icon\"[^>]*>")  # its address is wrong on most pages
_LINK = re.compile(rf"<a\b[^>]*\bhref=\"{_HOST}\"[^>]*>(?P<text>.*?)</a>", re.DOTALL | re.IGNORECASE)


def make_readable(docs: Path, held: Sequence[Held], *, title: str, assets: Path, shared: Path) -> None:
    """Change every page below `docs`, and put what the pages load into `shared`, a folder that several may use.

    `assets` is where npm's packages are; it need not exist.
    """
    beginnings = {one.table.name: _about(one) for one in held}
    for asset in ASSET_OF.values():
        _share(assets, shared, asset)
    for name in _UNUSED:
        (docs / "static" / "images" / name).unlink(missing_ok=True)
    for page in docs.rglob("*.html"):
        parts = (part.removesuffix(".html") for part in page.relative_to(docs).parts)
        beginning = next((beginnings[part] for part in parts if part in beginnings), _front(title, held))
        html = offline(page.read_text(), base=_way(page, shared), there=shared)
        before, body, after = html.partition(_BODY)
        page.write_text(before + body + beginning + after)


def offline(html: str, *, base: str, there: Path) -> str:
    """A page that names no other host. `base` leads from the page to the folder of assets, which is at `there`."""

    def load(found: re.Match[str]) -> str:
        asset = ASSET_OF.get(found["url"].split("?")[0].rsplit("/", 1)[-1])
        if asset is None or not (there / asset.path).exists():
            return ""
        if found["tag"].lower() == "script":
            return f'<script src="{base}/{asset.path}"></script>'
        return f'<link rel="stylesheet" href="{base}/{asset.path}">'

    html = _LOADED.sub(load, _ICON.sub("", html))
    html = _LOGO.sub("<strong>Paddock</strong>", html)
    html = _BACKGROUND.sub("", html)
    html = _NEWSLETTER.sub("", html)
    return _LINK.sub(lambda found: found["text"], html)


def _front(title: str, held: Sequence[Held]) -> str:
    rows = "".join(
        f"<li><strong>{escape(one.table.name)}</strong>: {len(one.table.rows)} rows, "
        f"{len(one.table.laws) - len(one.broken)} of {len(one.table.laws)} laws hold</li>"
        for one in held
    )
    return (
        f'<section class="mb-4"><h4>{escape(title)}</h4><p>What Paddock knows of this model, as tables, each held to '
        f"its laws by great-expectations. Each line of the list further down leads to one of them.</p>"
        f"<ul>{rows}</ul></section>"
    )


def _about(one: Held) -> str:
    laws = "".join(
        f"<li>{'✗ broken: ' if law in one.broken else '✓ '}{escape(law.says)}</li>" for law in one.table.laws
    )
    return (
        f'<section class="mb-4"><h4>{escape(one.table.name.capitalize())}</h4><p>{escape(one.table.about)}</p>'
        f'<ul class="list-unstyled">{laws}</ul></section>'
    )


def _share(assets: Path, shared: Path, asset: Asset) -> None:
    """Whole or not at all: a process that dies here leaves nothing that another takes for the file."""
    source = assets / asset.package
    if (shared / asset.path).exists() or not (source / asset.file).exists():
        return
    if asset.kept:
        for one in sorted((source / asset.kept).iterdir()):
            _copy(one, shared / asset.package / asset.version / asset.kept / one.name)
    _copy(source / asset.file, shared / asset.path)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    durable.write_atomically(target, source.read_bytes())


def _way(page: Path, folder: Path) -> str:
    """The relative address of a folder, from a page."""
    common = next(parent for parent in page.parents if folder.is_relative_to(parent))
    ups = len(page.parent.relative_to(common).parts)
    return "/".join([".."] * ups + list(folder.relative_to(common).parts))
