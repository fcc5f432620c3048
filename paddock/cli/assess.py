"""Commands that check a model before it is fetched: inspect, plan."""

from __future__ import annotations

from typing import Annotated

import typer

from paddock.cli.options import Json, QuantOption, TargetOption, make_clients, prepare_audit
from paddock.cli.output import print_result


def inspect(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A .gguf file, a directory, MODEL, or org/name[@rev]:file.gguf.")
    ],
    deep: Annotated[bool, typer.Option("--deep", help="Read the tensor data too.")] = False,
    as_json: Json = False,
) -> int:
    """Audit the header and chat template of a GGUF.

    It may be a local file or directory, or a file on the Hub. Of a file on the Hub, only the header is fetched, unless
    `--deep` is given.
    """
    prepare_audit()
    from paddock.cli.render import render_inspection
    from paddock.lifecycle.assess.inspect import inspect as inspect_source

    inspection = inspect_source(make_clients(), source, deep=deep)
    print_result(as_json, inspection.to_json(), lambda: render_inspection(inspection))
    return 2 if inspection.verdict == "reject" else 0


def plan(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A .gguf file, a directory, MODEL, or org/name[@rev]:file.gguf.")
    ],
    ctx: Annotated[
        int | None, typer.Option("--ctx", metavar="N", min=64, help="Tokens of context; by default as many as fit.")
    ] = None,
    parallel: Annotated[int, typer.Option("--parallel", metavar="N", min=1, max=64, help="Requests at once.")] = 1,
    kv_type: Annotated[str, typer.Option("--kv-type", metavar="T", help="f16, q8_0, q4_0, …")] = "f16",
    ram: Annotated[
        str | None, typer.Option("--ram", metavar="BYTES", help="Plan for a machine with this memory.")
    ] = None,
    vram: Annotated[
        list[str] | None,
        typer.Option("--vram", metavar="BYTES", help="Plan for a GPU with this memory; repeat for more."),
    ] = None,
    target: TargetOption = "this-machine",
    quant: QuantOption = "auto",
    as_json: Json = False,
) -> int:
    """Plan how a model runs on a machine, from its header alone.

    The plan says whether it fits, with which quantization and parameters. Only its header is fetched: the engine
    predicts the memory from that.
    """
    prepare_audit()
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
            raise typer.BadParameter("--target excludes --ram and --vram")
        main_bytes = parse_bytes(ram) if ram is not None else this_machine().ram_available_bytes
        machine = Target(main_bytes, tuple(map(parse_bytes, vram or ())))
    result = preflight(make_clients(), source, PlanRequest(ctx, parallel, kv_type), target=machine, quantization=quant)
    print_result(as_json, result.to_json(), lambda: render_preflight(result))
    return 0 if result.plan.fits else 2
