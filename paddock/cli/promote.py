"""Commands that decide what serves: promote, rollback, history."""

from __future__ import annotations

from typing import Annotated

import typer

from paddock.cli.options import (
    Json,
    ModelArgument,
    NameArgument,
    make_clients,
    parse_model,
    parse_model_without_revision,
)
from paddock.cli.output import print_result
from paddock.errors import NotOnVolume


def promote(
    model: ModelArgument,
    reason: Annotated[str, typer.Option(help="Why, for the history.")] = "promoted by hand",
    as_json: Json = False,
) -> int:
    """Promote a snapshot of the volume, and make its variant the model's default."""
    from paddock.cli.render import say, say_pruned
    from paddock.lifecycle.promote.promote import promote as promote_model
    from paddock.lifecycle.steps import PlainRunner

    promoting = promote_model(PlainRunner(make_clients()), parse_model(model), reason=reason)
    manifest, done, pruned = promoting.manifest, promoting.change, promoting.pruned
    payload = {
        "model": manifest.repository,
        "revision": manifest.revision,
        "variant": manifest.variant,
        "previous": done.previous,
        "default": done.default,
        "previous_default": done.previous_default,
        "removed": pruned.to_json(),
        "freed_bytes": pruned.freed_bytes,
    }

    def render() -> None:
        before = (
            f"{manifest.variant} was at {done.previous or 'nothing'}, the default {done.previous_default or 'none'}"
        )
        say(f"promoted {manifest.id}; before, {before}")
        say_pruned(pruned)

    print_result(as_json, payload, render)
    return 0


def rollback(
    model: NameArgument,
    reason: Annotated[str, typer.Option(help="Why, for the history.")] = "rolled back by hand",
    as_json: Json = False,
) -> int:
    """Undo the last change of what a model's name stands for, or of a variant."""
    from paddock.cli.render import say
    from paddock.lifecycle.promote.promote import rollback as roll_back_model
    from paddock.lifecycle.steps import PlainRunner

    wanted = parse_model_without_revision(model)
    done = roll_back_model(PlainRunner(make_clients()), wanted, reason=reason).change
    payload = {
        "model": str(wanted.model),
        "revision": done.revision,
        "variant": done.variant,
        "previous": done.previous,
        "default": done.default,
        "previous_default": done.previous_default,
    }

    def render() -> None:
        if done.moves_default:
            say(f"the default of {wanted.model} is {done.default}@{done.revision} again, after {done.previous_default}")
        else:
            say(f"rolled back {wanted.model}:{done.variant} from {done.previous} to {done.revision}")

    print_result(as_json, payload, render)
    return 0


def history(model: NameArgument, as_json: Json = False) -> int:
    """Show what was promoted when, and why: of a model, or of a variant."""
    from paddock.cli.render import render_history
    from paddock.model.reference import same_variant

    wanted = parse_model_without_revision(model)
    volume = make_clients().volume
    lines = volume.history(wanted.model)
    if not lines and not volume.ids(wanted.model):
        raise NotOnVolume(f"{wanted.model} is not on {volume.label}", cure="pull or onboard it first")
    if wanted.variant:
        lines = [one for one in lines if same_variant(one.variant, wanted.variant)]
    promoted = volume.promoted(wanted.model)
    last = lines[-1] if lines else None
    now = promoted.of(last.variant) if wanted.variant and last else promoted.default_id
    payload = {
        "model": str(wanted.model),
        "revision": now.revision if now else None,
        "variant": now.variant if now else None,
        "previous": last.previous if last else None,
        "default": promoted.default,
        "promoted": dict(sorted(promoted.revisions.items())),
        "history": [one.to_json() for one in lines],
    }
    print_result(as_json, payload, lambda: render_history(lines))
    return 0


COMMANDS = {"promote": promote, "rollback": rollback, "history": history}
"""The commands by their names."""
