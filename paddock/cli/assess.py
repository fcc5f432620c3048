"""Commands that judge a model before it is fetched: inspect, plan."""

from __future__ import annotations

from typing import Annotated

import typer

from paddock.cli.options import Json, QuantOption, TargetOption, make_clients
from paddock.cli.output import print_result


def inspect(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A .gguf file, a directory, MODEL, or org/name[@rev]:file.gguf.")
    ],
    deep: Annotated[bool, typer.Option("--deep", help="Read the tensor data too.")] = False,
    as_json: Json = False,
) -> int:
    """Judge a GGUF by its header and template: a local file, a directory, or a file on the Hub by range requests
    alone."""
    from paddock.cli.render import render_inspection
    from paddock.lifecycle.assess.inspect import inspect as look

    found = look(make_clients(), source, deep=deep)
    print_result(as_json, found.to_json(), lambda: render_inspection(found))
    return 2 if found.verdict == "reject" else 0


def plan(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A .gguf file, a directory, MODEL, or org/name[@rev]:file.gguf.")
    ],
    ctx: Annotated[
        int | None, typer.Option("--ctx", metavar="N", min=64, help="Tokens of context; by default all that fits.")
    ] = None,
    parallel: Annotated[int, typer.Option("--parallel", metavar="N", min=1, max=64, help="Requests at once.")] = 1,
    kv_type: Annotated[str, typer.Option("--kv-type", metavar="T", help="f16, q8_0, q4_0, …")] = "f16",
    ram: Annotated[str | None, typer.Option("--ram", metavar="BYTES", help="For a machine with so much.")] = None,
    vram: Annotated[
        list[str] | None, typer.Option("--vram", metavar="BYTES", help="And a GPU with so much; again for more.")
    ] = None,
    target: TargetOption = "this-machine",
    quant: QuantOption = "auto",
    as_json: Json = False,
) -> int:
    """Say whether a model fits, with which quantization and parameters, from its header alone: the engine itself says
    what it takes, and no weight is fetched."""
    from paddock.cli.render import render_preflight
    from paddock.lifecycle.assess.preflight import preflight
    from paddock.model.hardware import this_machine
    from paddock.model.units import parse_bytes
    from paddock.planning.placement import Target
    from paddock.planning.plan import PlanRequest
    from paddock.planning.targets import parse_target

    machine = parse_target(target)
    if ram is not None or vram:
        if machine is not None:
            raise typer.BadParameter("--target excludes --ram and --vram: it has its own")
        main_bytes = parse_bytes(ram) if ram is not None else this_machine().ram_available_bytes
        machine = Target(main_bytes, tuple(map(parse_bytes, vram or ())))
    found = preflight(make_clients(), source, PlanRequest(ctx, parallel, kv_type), target=machine, quantization=quant)
    print_result(as_json, found.to_json(), lambda: render_preflight(found))
    return 0 if found.plan.fits else 2


COMMANDS = {"inspect": inspect, "plan": plan}
"""The commands by their names."""
