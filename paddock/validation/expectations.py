"""Check tables against their expectations with great-expectations, and write its Data Docs.

The only module that imports great_expectations. The import takes seconds, so it happens when a table is checked. Data
Docs are HTML pages with the results; `paddock.validation.site` makes them readable without access to other hosts.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import LazyLoader, find_spec, module_from_spec
from pathlib import Path
from typing import Any, Final

from paddock.model.finding import Finding
from paddock.plain_text import one_line
from paddock.validation.tables import Expectation, Table

RULES: Final = {
    "files": ("expectations.files", "pull the model again: only missing and damaged files are downloaded"),
    "tensors": (
        "expectations.tensors",
        "use another file, and report this one to Paddock's maintainers, since the audit accepted it",
    ),
    "metadata": ("expectations.metadata", "use a file that was converted with a current llama.cpp"),
    "gates": ("expectations.gates", "keep what is promoted, or choose another quantization"),
    "inventory": ("expectations.inventory", "pull the model that the Data Docs name again, or remove it"),
}
_EXAMPLES = 3
# Data Docs insert values into their pages unescaped, expand `$name`, and render notes as Markdown. Each character is
# replaced by a similar one, so that lengths stay the same.
_ESCAPES = str.maketrans("<>&$\"'`", "‹›＆＄”’ˋ")
_NOTE_ESCAPES = str.maketrans("[]*\\~#", "［］＊＼～＃")


@dataclass(frozen=True, slots=True)
class CheckedTable:
    """A table with the expectations that failed, and one finding for each of them."""

    table: Table
    failed: tuple[Expectation, ...]
    findings: tuple[Finding, ...]


def check_tables(tables: Sequence[Table], *, what: str, docs: Path | None) -> tuple[CheckedTable, ...]:
    """Check each table against its expectations, and write Data Docs into the empty directory `docs`, if there is one.

    `what` is the title on the pages; it must not contain a slash. Rows may hold untrusted text: characters that mean
    something in HTML are replaced by similar ones.
    """
    for module in ("scipy.stats", "altair"):
        _load_at_first_use(module)
    import great_expectations as gx

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    source = context.data_sources.add_pandas(what)
    checked = tuple(_check(context, source, table, run_name=what) for table in tables)
    if docs is not None:
        _write_pages(context, tables, docs)
    return checked


def _write_pages(context: Any, tables: Sequence[Table], docs: Path) -> None:
    """Write the Data Docs of the tables that were checked."""
    context.add_data_docs_site(
        site_name="paddock",
        site_config={
            "class_name": "SiteBuilder",
            "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs)},
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
            "show_how_to_buttons": False,
        },
    )
    context.build_data_docs(site_names=["paddock"])
    pages = len(list((docs / "validations").rglob("*.html")))
    if pages != len(tables):  # great-expectations logs its errors here instead of raising them
        raise AssertionError(f"great-expectations wrote {pages} pages for {len(tables)} tables")


def _load_at_first_use(full_name: str) -> None:
    """Let a later import of a module load it only when something in it is used.

    great_expectations imports scipy.stats and altair for expectations that no table has: half of the time of its own
    import.
    """
    if full_name in sys.modules or (spec := find_spec(full_name)) is None or spec.loader is None:
        return
    spec.loader = LazyLoader(spec.loader)
    module = sys.modules[full_name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    package, _, name = full_name.rpartition(".")
    if package:
        setattr(sys.modules[package], name, module)  # else `from package import name` looks at it, which loads it


def _check(context: Any, source: Any, table: Table, *, run_name: str) -> CheckedTable:
    import great_expectations as gx
    import pandas

    definition = gx.ValidationDefinition(
        name=table.name,
        data=source.add_dataframe_asset(table.name).add_batch_definition_whole_dataframe(table.name),
        suite=context.suites.add(
            gx.ExpectationSuite(
                name=table.name,
                notes=_note(table.description),
                expectations=[_native(expectation) for expectation in table.expectations],
            )
        ),
    )
    # dtype=object: an integer column with a missing value must not become a float column
    rows = [tuple(map(_escaped, row)) for row in table.rows]
    frame = pandas.DataFrame(rows, columns=list(table.columns), dtype=object)
    checkpoint = gx.Checkpoint(name=table.name, validation_definitions=[context.validation_definitions.add(definition)])
    run = context.checkpoints.add(checkpoint).run(
        batch_parameters={"dataframe": frame}, run_id=gx.RunIdentifier(run_name=run_name)
    )
    (result,) = run.run_results.values()
    if len(result.results) != len(table.expectations):
        raise AssertionError(
            f"{len(result.results)} results for {len(table.expectations)} expectations on {table.name}"
        )
    failed = tuple(_failed(table, result.results))
    return CheckedTable(table, tuple(expectation for expectation, _ in failed), tuple(finding for _, finding in failed))


def _escaped(value: object) -> object:
    return _text(value) if isinstance(value, str) else value


def _text(text: str) -> str:
    return one_line(text).translate(_ESCAPES)


def _note(text: str) -> str:
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", "＿", _text(text).translate(_NOTE_ESCAPES))


def _native(expectation: Expectation) -> Any:
    """The same expectation as an object of great-expectations."""
    import great_expectations.expectations as kinds

    return getattr(kinds, expectation.kind)(**expectation.arguments, notes=_note(expectation.description))


def _failed(table: Table, results: Sequence[Any]) -> Iterator[tuple[Expectation, Finding]]:
    by_description = {_note(expectation.description): expectation for expectation in table.expectations}
    for result in results:
        expectation = by_description[result.expectation_config.notes]
        if any(isinstance(raised, dict) and raised.get("raised_exception") for raised in _raised(result)):
            raise AssertionError(
                f"great-expectations could not evaluate {expectation.kind} on {table.name}: {result.exception_info}"
            )
        if not result.success:
            message = f"“{expectation.description}” does not hold{_examples(result.result)}"
            rule, cure = RULES[table.name]
            yield expectation, Finding(rule, expectation.severity, message, table.name, cure)


def _raised(result: Any) -> list[Any]:
    """The exceptions of a result: great-expectations keeps one record, or one for each metric."""
    info = result.exception_info or {}
    return [info, *info.values()]


def _examples(result: dict[str, Any]) -> str:
    count, values = result.get("unexpected_count"), result.get("partial_unexpected_list") or []
    if not count:
        return ""
    shown = ", ".join(repr(value)[:80] for value in values[:_EXAMPLES])
    return f": {count} of {result.get('element_count')} rows, such as {shown}"
