"""Holds tables to their laws with great-expectations, and has it write its Data Docs about that.

The only room that knows great_expectations, whose import takes seconds: it is imported where a table is checked. Data
Docs are pages of HTML; what makes them readable without any other host is `site`'s business.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from paddock.model.finding import Finding
from paddock.validation.tables import Law, Table

RULES: Final = {
    "files": ("expectations.files", "pull the model again: what is whole stays, and what is not is fetched"),
    "tensors": ("expectations.tensors", "use another file; and tell us, since the audit let this one pass"),
    "metadata": ("expectations.metadata", "use a file that was converted with a current llama.cpp"),
    "inventory": ("expectations.inventory", "pull the model that the Data Docs name again, or remove it"),
}
_EXAMPLES = 3
# Data Docs write values into their pages as they are, and fill in what follows a dollar sign. One character for one, so
# that lengths stay.
_HARMLESS = str.maketrans("<>&$\"'`", "‹›＆＄”’ˋ")


@dataclass(frozen=True, slots=True)
class Held:
    """A table, which of its laws are broken, and a finding for each of those."""

    table: Table
    broken: tuple[Law, ...]
    findings: tuple[Finding, ...]


def check_tables(tables: Sequence[Table], *, what: str, docs: Path) -> tuple[Held, ...]:
    """Hold each table to its laws, and leave Data Docs about `what` in the empty directory `docs`.

    `what` names them on the pages, and has no slash. The rows may hold what a stranger wrote: what means something in
    HTML is replaced by what looks like it.
    """
    import great_expectations as gx

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    context.add_data_docs_site(
        site_name="paddock",
        site_config={
            "class_name": "SiteBuilder",
            "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs)},
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
            "show_how_to_buttons": False,
        },
    )
    source = context.data_sources.add_pandas(what)
    held = tuple(_check(context, source, table, run_name=what) for table in tables)
    context.build_data_docs(site_names=["paddock"])
    pages = len(list((docs / "validations").rglob("*.html")))
    if pages != len(tables):  # what goes wrong there is logged, and not raised
        raise AssertionError(f"great-expectations wrote {pages} pages on {len(tables)} tables")
    return held


def _check(context: Any, source: Any, table: Table, *, run_name: str) -> Held:
    import great_expectations as gx
    import pandas

    definition = gx.ValidationDefinition(
        name=table.name,
        data=source.add_dataframe_asset(table.name).add_batch_definition_whole_dataframe(table.name),
        suite=context.suites.add(
            gx.ExpectationSuite(
                name=table.name, notes=table.about, expectations=[_expectation(law) for law in table.laws]
            )
        ),
    )
    # As objects: a column of integers with a gap must not become one of floats.
    rows = [tuple(map(_harmless, row)) for row in table.rows]
    frame = pandas.DataFrame(rows, columns=list(table.columns), dtype=object)
    checkpoint = gx.Checkpoint(name=table.name, validation_definitions=[context.validation_definitions.add(definition)])
    run = context.checkpoints.add(checkpoint).run(
        batch_parameters={"dataframe": frame}, run_id=gx.RunIdentifier(run_name=run_name)
    )
    (result,) = run.run_results.values()
    if len(result.results) != len(table.laws):
        raise AssertionError(f"{len(table.laws)} laws of {table.name}, and {len(result.results)} results")
    broken = tuple(_broken(table, result.results))
    return Held(table, tuple(law for law, _ in broken), tuple(finding for _, finding in broken))


def _harmless(value: object) -> object:
    return value.translate(_HARMLESS) if isinstance(value, str) else value


def _expectation(law: Law) -> Any:
    import great_expectations.expectations as kinds

    return getattr(kinds, law.kind)(**law.arguments, notes=law.says)


def _broken(table: Table, results: Sequence[Any]) -> Iterator[tuple[Law, Finding]]:
    laws = {law.says: law for law in table.laws}
    for result in results:
        law = laws[result.expectation_config.notes]
        if any(isinstance(raised, dict) and raised.get("raised_exception") for raised in _raised(result)):
            raise AssertionError(
                f"great-expectations could not ask {law.kind} of {table.name}: {result.exception_info}"
            )
        if not result.success:
            message = f"“{law.says}” does not hold{_examples(result.result)}"
            rule, cure = RULES[table.name]
            yield law, Finding(rule, law.severity, message, table.name, cure)


def _raised(result: Any) -> list[Any]:
    """What was raised: one record, or one for each metric."""
    info = result.exception_info or {}
    return [info, *info.values()]


def _examples(result: dict[str, Any]) -> str:
    count, values = result.get("unexpected_count"), result.get("partial_unexpected_list") or []
    if not count:
        return ""
    shown = ", ".join(repr(value)[:80] for value in values[:_EXAMPLES])
    return f": {count} of {result.get('element_count')} rows, such as {shown}"
