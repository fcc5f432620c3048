"""Command that compares a model with what is promoted: compare."""

from __future__ import annotations

from typing import Annotated

import typer

from paddock.cli.model_argument import find_snapshot
from paddock.cli.options import Json, ModelArgument, make_clients
from paddock.cli.output import print_result


def compare(
    model: ModelArgument,
    against: Annotated[
        str | None,
        typer.Option("--with", metavar="MODEL", help="What it is compared with; by default what is promoted."),
    ] = None,
    ctx: Annotated[int, typer.Option("--ctx", metavar="N", min=512, help="Tokens of context.")] = 4096,
    roleplay: Annotated[bool, typer.Option("--roleplay", help="Also compare how well they play a character.")] = False,
    tokens: Annotated[
        int | None,
        typer.Option(
            "--tokens", metavar="N", min=512, help="Predict at most N tokens, and keep no report; by default all."
        ),
    ] = None,
    as_json: Json = False,
) -> int:
    """Decide whether a model may replace what is promoted.

    Quality, speed, memory and chat template are compared on this machine, each with a gate. Exits with 2 when a gate
    does not pass.
    """
    from paddock.cli.render_gates import render_gates
    from paddock.lifecycle.promote.compare import compare as compare_snapshots
    from paddock.lifecycle.promote.gate_rules import gate_rules
    from paddock.measure.likelihood import LIMIT_TOKENS

    clients = make_clients()
    manifest = find_snapshot(clients, model)
    rules = gate_rules(clients, manifest.id)
    report = compare_snapshots(
        clients,
        manifest,
        promoted=find_snapshot(clients, against) if against else None,
        overrides=rules.bounds,
        undecided_blocks=rules.undecided_blocks,
        context_tokens=ctx,
        roleplay=roleplay,
        limit_tokens=tokens or LIMIT_TOKENS,
        keep=tokens is None,  # a promotion goes by all of the texts
    )
    print_result(as_json, report.to_json(), lambda: render_gates(report))
    return 0 if report.passed else 2
