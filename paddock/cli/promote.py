"""Commands on promotions: promote, rollback, history."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from paddock.cli.model_argument import parse_stored_model
from paddock.cli.options import Json, ModelArgument, make_clients
from paddock.cli.output import print_result
from paddock.errors import NotOnVolume


def promote(
    model: ModelArgument,
    reason: Annotated[str, typer.Option(help="The reason, for the history.")] = "promoted by hand",
    force: Annotated[
        bool, typer.Option("--force", help="Promote it although the gates held it back; needs --reason.")
    ] = False,
    no_default: Annotated[
        bool, typer.Option("--no-default", help="Leave the model's default variant as it is.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Promote a snapshot that the gates let through, and make its variant the default.

    Where it replaces other files and was not compared with them, that is done first.
    """
    from paddock.cli.logs import print_progress
    from paddock.cli.printing import print_line
    from paddock.cli.render import render_pruned
    from paddock.lifecycle.promote.promote import promote as promote_model
    from paddock.lifecycle.steps import PlainRunner

    clients = make_clients()
    wanted = parse_stored_model(clients, model)
    result = promote_model(
        PlainRunner(clients), wanted, reason=reason, force=force, default=not no_default, announce=print_progress
    )
    manifest, change, pruned = result.manifest, result.change, result.pruned
    payload = {
        "model": manifest.repository,
        "revision": manifest.revision,
        "variant": manifest.variant,
        "previous": change.previous,
        "default": change.default,
        "previous_default": change.previous_default,
        "forced": change.forced,
        "removed": pruned.to_json(),
        "freed_bytes": pruned.freed_bytes,
    }

    def render() -> None:
        before = (
            f"{manifest.variant} was at {change.previous or 'nothing'}, the default {change.previous_default or 'none'}"
        )
        forced = " by force" if change.forced else ""
        print_line(f"promoted {manifest.id}{forced}; before, {before}")
        render_pruned(pruned)

    print_result(as_json, payload, render)
    return 0


def rollback(
    model: ModelArgument,
    reason: Annotated[str, typer.Option(help="The reason, for the history.")] = "rolled back by hand",
    as_json: Json = False,
) -> int:
    """Undo the last promotion of a model, or of a variant; with a revision, go back to that one."""
    from paddock.cli.printing import print_line
    from paddock.lifecycle.promote.promote import rollback as roll_back_model
    from paddock.lifecycle.steps import PlainRunner

    clients = make_clients()
    wanted = parse_stored_model(clients, model)
    change = roll_back_model(PlainRunner(clients), wanted, reason=reason).change
    payload = {
        "model": str(wanted.model),
        "revision": change.revision,
        "variant": change.variant,
        "previous": change.previous,
        "default": change.default,
        "previous_default": change.previous_default,
    }

    def render() -> None:
        if change.moves_default:
            default = f"{change.default}@{change.revision}"
            print_line(f"the default of {wanted.model} is {default} again, after {change.previous_default}")
        else:
            print_line(f"rolled back {wanted.model}:{change.variant} from {change.previous} to {change.revision}")

    print_result(as_json, payload, render)
    return 0


def history(model: ModelArgument, as_json: Json = False) -> int:
    """Show the promotions of a model and their reasons; with a revision, those from or to that one."""
    from paddock.cli.render import render_history
    from paddock.lifecycle.revisions import resolve_commit
    from paddock.model.reference import same_variant

    clients = make_clients()
    wanted, volume = parse_stored_model(clients, model), clients.volume
    wanted = replace(wanted, model=volume.spelled(wanted.model))
    changes = volume.history(wanted.model)
    if not changes and not volume.ids(wanted.model):
        raise NotOnVolume(f"{wanted.model} is not on {volume.label}", cure="pull or onboard it first")
    if wanted.variant:
        changes = [change for change in changes if same_variant(change.variant, wanted.variant)]
    if wanted.ref:
        commit = resolve_commit(clients, wanted.model, wanted.ref)
        changes = [change for change in changes if commit in {change.revision, change.previous}]
    promoted = volume.promoted(wanted.model)
    last = changes[-1] if changes else None
    current = promoted.of(last.variant) if wanted.variant and last else promoted.default_id
    payload = {
        "model": str(wanted.model),
        "revision": current.revision if current else None,
        "variant": current.variant if current else None,
        "previous": last.previous if last else None,
        "default": promoted.default,
        "promoted": dict(sorted(promoted.revisions.items())),
        "history": [change.to_json() for change in changes],
    }
    print_result(as_json, payload, lambda: render_history(changes))
    return 0
