"""Commands on the catalog: catalog add, catalog check, catalog schema."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from paddock.cli.options import Json, ProfileName
from paddock.cli.output import print_result


def add(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="org/name[:VARIANT][@CHANNEL]")],
    target: Annotated[str | None, typer.Option("--target", help="The machine to fit.")] = None,
    default: Annotated[
        bool | None, typer.Option("--default/--no-default", help="Whether it moves the model's default variant.")
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            "--context", "--ctx", metavar="N", min=256, max=1_048_576, help="Tokens of context that must fit."
        ),
    ] = None,
    profile: Annotated[ProfileName | None, typer.Option(help="The use of the model.")] = None,
    required: Annotated[
        bool | None, typer.Option("--required/--no-required", help="Whether a refresh fails when this model fails.")
    ] = None,
    keep: Annotated[
        int | None, typer.Option("--keep", metavar="N", min=0, max=10_000, help="How many of its newest weights stay.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Add a model to the catalog, or change its entry. Comments and formatting stay."""
    from paddock.cli.printing import print_line
    from paddock.lifecycle.catalog import CatalogEntry, catalog_place
    from paddock.lifecycle.catalog.edit import add_to_catalog
    from paddock.model.reference import parse_requested
    from paddock.planning.targets import parse_target
    from paddock.settings import load

    settings = load()
    requested = parse_requested(model, settings.hub_endpoint)
    if requested.file is not None:
        raise typer.BadParameter("a catalog names variants, not files: write org/name:VARIANT")
    if target is not None:
        parse_target(target)
    reference = requested.reference
    options: dict[str, Any] = {
        "variant": reference.variant,
        "channel": reference.ref,
        "target": target,
        "default": default,
        "context_tokens": context,
        "profile": profile.value if profile else None,
        "required": required,
        "keep": keep,
    }
    given = {key: value for key, value in options.items() if value is not None}
    place = catalog_place(settings)
    edit = add_to_catalog(place, CatalogEntry(model=reference.model, **given), given)
    payload = {"path": str(place), "outcome": edit.outcome, "entry": edit.entry.to_json(), "notes": list(edit.notes)}

    def render() -> None:
        done = {"added": "added to", "updated": "changed in", "unchanged": "already in"}[edit.outcome]
        print_line(f"{edit.entry.name} {done} {place}")
        for note in edit.notes:
            print_line(note)

    print_result(as_json, payload, render)
    return 0


def check(
    file: Annotated[str | None, typer.Argument(metavar="[FILE]", help="By default that of PADDOCK_CATALOG.")] = None,
    as_json: Json = False,
) -> int:
    """Check the catalog, and list its entries and problems."""
    from paddock.cli.render_upkeep import render_catalog
    from paddock.lifecycle.catalog import catalog_place, read_catalog
    from paddock.settings import load

    place = catalog_place(load(), file)
    checked = read_catalog(place)
    rows = [{**entry.to_json(), "line": line} for entry, line in checked.catalog.rows]
    payload: dict[str, Any] = {
        "path": str(place),
        "valid": not checked.problems,
        "entries": rows,
        "prices": dict(checked.catalog.prices),
        "problems": [problem.to_json() for problem in checked.problems],
    }
    if checked.problems:
        error = checked.error()
        payload |= {"error": error.code, "message": error.message, "cure": error.cure}
    print_result(as_json, payload, lambda: render_catalog(checked))
    return checked.error().exit_status if checked.problems else 0


def schema(as_json: Json = False) -> int:  # noqa: ARG001 - it prints JSON anyway
    """Print the JSON schema of the catalog, for editors."""
    from paddock.lifecycle.catalog import catalog_schema

    print_result(True, catalog_schema(), lambda: None)
    return 0
