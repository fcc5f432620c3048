"""Each expectation on a table fails for a bad row and for no sound one; Data Docs load nothing from other hosts."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from paddock import settings
from paddock.chat.template import TEMPLATE_FILE
from paddock.gguf.reader import read_header
from paddock.model.artifact import Listing, Manifest, RepositoryFile, SnapshotFile
from paddock.model.finding import Severity, Verdict
from paddock.model.names import ModelName, Sha256, parse_revision
from paddock.model.reference import Variant
from paddock.validation import tables
from paddock.validation.expectations import CheckedTable, check_tables
from paddock.validation.site import ASSETS_DIRECTORY, rewrite_pages
from paddock.validation.tables import GateTableRow, StoredFileRow, Table
from tests.support.gguf import STRING, tiny_llama
from tests.support.memory import MemorySource

REVISION = parse_revision("0123456789" * 4)
DIGESTS = [Sha256(character * 64) for character in "abc"]
HOST = re.compile(r"(?<![:\w])(?:https?:)?//[a-zA-Z0-9][a-zA-Z0-9.-]*\.[a-z]{2,}", re.IGNORECASE)
RULE_OF = {
    "files": "expectations.files",
    "tensors": "expectations.tensors",
    "metadata": "expectations.metadata",
    "inventory": "expectations.inventory",
    "gates": "expectations.gates",
}
HOSTILE = "<img src=//evil.example/x onerror=alert(1)>\"'$title [a](javascript:alert(1)) **b** \x1b[2J\u202e"


def manifest() -> Manifest:
    return Manifest(
        repository="org/name",
        revision=REVISION,
        variant=Variant("Q8_0"),
        files=(
            SnapshotFile(path=TEMPLATE_FILE, size=3, sha256=DIGESTS[0]),
            SnapshotFile(path="config.json", size=20, sha256=DIGESTS[1]),
            SnapshotFile(path="model.gguf", size=100, sha256=DIGESTS[2]),
        ),
        segment_bytes=64,
        quantization="Q8_0",
        licence="mit",
        created_at=datetime.now(UTC),
        verdict=Verdict.ACCEPT,
        template_sha256=DIGESTS[0],
        paddock_version="0",
        engine_version="0",
    )


def listing(**size_and_sha256: tuple[int, Sha256 | None]) -> Listing:
    files = {"config.json": (20, None), "model.gguf": (100, DIGESTS[2]), "README.md": (5, None)}
    rows = {name.replace("_", "."): value for name, value in size_and_sha256.items()}
    return Listing(
        ModelName.parse("org/name"),
        REVISION,
        tuple(RepositoryFile(path, size, sha256, None) for path, (size, sha256) in {**files, **rows}.items()),
        "mit",
    )


def stored(**changes: Any) -> StoredFileRow:
    sound = StoredFileRow("org/name", REVISION, "Q8_0", "model.gguf", 100, 100, DIGESTS[2], promoted=True)
    return replace(sound, **changes)


def headers() -> dict[str, Any]:
    file = tiny_llama().set("general.name", STRING, "Tiny").set("tokenizer.chat_template", STRING, "{{ messages }}")
    return {"model.gguf": read_header(MemorySource(file.to_bytes()))}


def tensors() -> Table:
    return tables.tensors(headers())


def with_cell(table: Table, column: str, value: object) -> Table:
    first, *rest = table.rows
    at = table.columns.index(column)
    return replace(table, rows=[(*first[:at], value, *first[at + 1 :]), *rest])


def without(table: Table, column: str, value: object) -> Table:
    at = table.columns.index(column)
    return replace(table, rows=[row for row in table.rows if row[at] != value])


def twice(table: Table) -> Table:
    return replace(table, rows=[table.rows[0], *table.rows])


def metadata() -> Table:
    return tables.metadata(headers())


def gates(**changes: Any) -> Table:
    """One gate that decided by a number, and one without; `changes` are those of the first."""
    ratio = GateTableRow("kl_ratio", "at most 1.5 times", "passed", figure=1.2, most=1.5)
    return tables.gates([replace(ratio, **changes), GateTableRow("audit", "not rejected", "passed")], against="alone")


def check(*checked: Table) -> tuple[CheckedTable, ...]:
    """Without Data Docs, which take as long as the checks; other tests write them."""
    return check_tables(checked, what="org--name-01234567", docs=None)


def test_sound_tables_meet_every_expectation() -> None:
    sound = (
        tables.files(manifest(), listing()),
        tensors(),
        metadata(),
        tables.inventory([stored(), stored(path="b.gguf")]),
        gates(),
    )
    assert [(one.table.name, one.findings) for one in check(*sound)] == [
        ("files", ()),
        ("tensors", ()),
        ("metadata", ()),
        ("inventory", ()),
        ("gates", ()),
    ]


FAILING: dict[str, tuple[Callable[[], Table], str, Severity]] = {
    "another size than the Hub's": (
        lambda: tables.files(manifest(), listing(model_gguf=(101, DIGESTS[2]))),
        "Each file has the size that the Hub lists",
        Severity.REJECT,
    ),
    "another digest than the Hub's": (
        lambda: tables.files(manifest(), listing(model_gguf=(100, DIGESTS[1]))),
        "Each large file has the sha256 that the Hub lists",
        Severity.REJECT,
    ),
    "a file that the Hub does not list": (
        lambda: tables.files(
            manifest(), replace(listing(), files=tuple(f for f in listing().files if f.path != "config.json"))
        ),
        "Each file is listed on the Hub or was made by Paddock",
        Severity.REJECT,
    ),
    "a template that Paddock did not make": (
        lambda: tables.files(replace(manifest(), template_sha256=DIGESTS[1]), listing()),
        "Each file is listed on the Hub or was made by Paddock",
        Severity.REJECT,
    ),
    "a file twice": (
        lambda: twice(tables.files(manifest(), listing())),
        "No file is listed twice",
        Severity.REJECT,
    ),
    "a digest that is none": (
        lambda: with_cell(tables.files(manifest(), None), "sha256", "abc"),
        "Each file has a valid sha256",
        Severity.REJECT,
    ),
    "a tensor twice": (lambda: twice(tensors()), "No tensor is listed twice", Severity.REJECT),
    "a name that is too long": (
        lambda: with_cell(tensors(), "tensor", "x" * 64),
        "Each tensor has a name that is not too long for llama.cpp",
        Severity.REJECT,
    ),
    "a type of intermediate results": (
        lambda: with_cell(tensors(), "type", "Q8_1"),
        "Each tensor has a type that is used to store weights",
        Severity.REJECT,
    ),
    "an empty tensor": (lambda: with_cell(tensors(), "weights", 0), "No tensor is empty", Severity.REJECT),
    "a tensor that is not aligned": (
        lambda: with_cell(tensors(), "off alignment", 8),
        "Each tensor begins at a multiple of the alignment",
        Severity.REJECT,
    ),
    "an overlap": (
        lambda: with_cell(tensors(), "gap before", -1),
        "Each tensor follows the one before, without overlap or gap",
        Severity.REJECT,
    ),
    "a hole": (
        lambda: with_cell(tensors(), "gap before", 32),
        "Each tensor follows the one before, without overlap or gap",
        Severity.REJECT,
    ),
    "a tensor beyond the end": (
        lambda: with_cell(tensors(), "left after", -1),
        "Each tensor ends inside of its file",
        Severity.REJECT,
    ),
    "a key twice": (lambda: twice(metadata()), "No key is listed twice", Severity.REJECT),
    "no context length": (
        lambda: without(metadata(), "key", "llama.context_length"),
        "The keys that llama.cpp needs to build the model are present",
        Severity.REJECT,
    ),
    "no vocabulary": (
        lambda: without(metadata(), "key", "tokenizer.ggml.tokens"),
        "The vocabulary is present",
        Severity.REJECT,
    ),
    "no file type": (
        lambda: without(metadata(), "key", "general.file_type"),
        "The file states its name, its quantization and its chat template",
        Severity.INFO,
    ),
    "a stored file twice": (
        lambda: tables.inventory([stored(), stored()]),
        "No file of a model is listed twice",
        Severity.WARN,
    ),
    "a stored file that is gone": (
        lambda: tables.inventory([stored(), stored(path="b.gguf", on_disk_bytes=None)]),
        "Each file that a manifest lists is on disk",
        Severity.WARN,
    ),
    "a stored file that was cut": (
        lambda: tables.inventory([stored(), stored(path="b.gguf", on_disk_bytes=99)]),
        "Each file has the size that its manifest lists",
        Severity.WARN,
    ),
    "a gate whose number is beyond its bound": (
        lambda: gates(figure=1.51, bound=HOSTILE),
        f"kl_ratio: {HOSTILE}",
        Severity.INFO,
    ),
    "a gate that failed without a number": (
        lambda: with_cell(gates(), "audit", tables.FAILED),
        "audit: not rejected",
        Severity.INFO,
    ),
    "a stored digest that is none": (
        lambda: tables.inventory([stored(), stored(path="b.gguf", sha256="abc")]),
        "Each file has a valid sha256",
        Severity.WARN,
    ),
}


@pytest.mark.parametrize("name", FAILING)
def test_a_failed_expectation_is_reported_with_its_rule(name: str) -> None:
    make, description, severity = FAILING[name]
    table = make()
    (one,) = check(table)
    failed = [finding for finding in one.findings if f"“{description}”" in finding.message]
    assert [(finding.rule, finding.severity) for finding in failed] == [(RULE_OF[table.name], severity)]
    assert failed[0].cure
    assert [expectation.description for expectation in one.failed] == [description]


def test_every_expectation_is_failed_by_a_test() -> None:
    bounded = gates(bound=HOSTILE)
    sound = (tables.files(manifest(), listing()), tensors(), metadata(), tables.inventory([stored()]), bounded)
    tested = {(table.name, expectation.description) for table in sound for expectation in table.expectations}
    assert tested == {(make().name, description) for make, description, _ in FAILING.values()}


def test_without_the_hubs_list_nothing_is_compared_with_it() -> None:
    (one,) = check(tables.files(manifest(), None))
    assert one.findings == ()
    assert [row[2] for row in one.table.rows] == ["Paddock", "not compared", "not compared"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[CheckedTable, ...]]:
    """Data Docs about tables with hostile values, as great-expectations wrote them, and the tables."""
    docs = tmp_path_factory.mktemp("written")
    hostile = with_cell(with_cell(tensors(), "tensor", HOSTILE + "x" * 64), "type", HOSTILE)
    found = check_tables(
        [
            hostile,
            twice(with_cell(metadata(), "key", HOSTILE)),
            tables.inventory([stored(path=HOSTILE)] * 2),
            gates(bound=HOSTILE),
        ],
        what="org--name-01234567",
        docs=docs,
    )
    return docs, found


@pytest.fixture(params=[True, False], ids=["styled", "plain"])
def pages(written: tuple[Path, tuple[CheckedTable, ...]], tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Data Docs about tables with hostile values, with and without the assets that npm fetched."""
    assets = settings.load().cache / "paddock" / ASSETS_DIRECTORY
    if request.param and not (assets / "jquery").is_dir():
        pytest.skip("the styles of Data Docs are not here: install npm, and run `make setup`")
    docs = tmp_path / "docs" / "org--name" / REVISION
    shutil.copytree(written[0], docs)
    shared = tmp_path / "docs" / "assets"
    rewrite_pages(docs, written[1], title=HOSTILE, assets=assets if request.param else tmp_path, shared=shared)
    assert (shared / "jquery").is_dir() == request.param
    return docs


def test_no_page_loads_from_another_host_or_runs_a_value_of_a_row(pages: Path) -> None:
    found = list(pages.rglob("*.html"))
    assert len(found) == 1 + 4 + 4
    for page in found:
        text = page.read_text()
        assert "<img src=//evil" not in text
        assert not any(one in text for one in ("\x1b", "\u202e", 'href="javascript', "<strong>b</strong>"))
        assert {name for name in HOST.findall(text) if "evil.example" not in name} == set()
        for wanted in re.findall(r"<(?:link|script|img)\b[^>]*(?:href|src)=\"([^\"]+)\"", text):
            assert (page.parent / wanted).resolve().is_file(), f"{page.name} loads {wanted}"


def test_each_page_begins_with_its_table_and_the_expectations_that_hold(pages: Path) -> None:
    tensor_page = next((pages / "validations" / "tensors").rglob("*.html")).read_text()
    assert "The weights of a model are stored as “tensors”" in tensor_page
    assert "✗ failed: Each tensor has a type that is used to store weights" in tensor_page
    assert "✓ No tensor is empty" in tensor_page
    assert "inventory</strong>: 2 rows, 3 of 4 expectations hold" in (pages / "index.html").read_text()


@pytest.mark.parametrize("pages", [True], ids=["styled"], indirect=True)
def test_a_browser_without_a_network_shows_the_pages_styled(pages: Path, tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    index = (pages / "index.html").read_text()
    # The page reports on itself: what its scripts and styles did, in its title.
    probe = (
        "<script>window.addEventListener('load', () => setTimeout(() => { document.title = 'seen ' +"
        " document.querySelectorAll('tbody tr').length + ' ' +"
        " getComputedStyle(document.querySelector('.nav-tabs')).display; }, 500));</script></body>"
    )
    (pages / "probe.html").write_text(index.replace("</body>", probe))
    done = subprocess.run(
        [
            chromium,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path / 'chromium'}",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--virtual-time-budget=5000",
            "--dump-dom",
            (pages / "probe.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    title = re.search(r"<title>(seen [^<]*)</title>", done.stdout)
    assert title is not None, done.stdout[:500]
    # Four results and four suites, drawn by a script; and tabs laid out by a style.
    assert title[1] == "seen 8 flex"
