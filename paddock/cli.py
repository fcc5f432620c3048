"""The terminal's door: parses, calls, prints.

Each command does one thing of the library and prints it for people, or with `--json` as exactly one JSON object on
stdout; logs and progress go to stderr. A failure is one sentence (with `--json`: `error`, `message`, `cure`) and an
exit status: 0 done, 1 could not be done, 2 judged and found wanting, 3 wrong usage. No input makes it print a
traceback, and a stdout that cannot be written is a failure too.

A MODEL is `org/name[:VARIANT][@REVISION]`; a SOURCE is that, `org/name[@REVISION]:path.gguf` for one file, or a local
`.gguf` file or directory.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
from io import TextIOWrapper
from typing import Annotated, NoReturn

import typer

from paddock import cli_engine, cli_stores
from paddock.cli_stores import list_s3
from paddock.door import ContextOption, Json, ModelArgument, NameArgument, ProfileName, QuantOption, TargetOption
from paddock.door import failed as _failed
from paddock.door import model_in as _model
from paddock.door import parts_here as _parts
from paddock.door import show as _show
from paddock.door import snapshot_in as _snapshot
from paddock.door import without_revision as _name
from paddock.errors import NotOnVolume, PaddockError, UsageError

app = typer.Typer(
    name="paddock",
    help="GGUF models for llama.cpp: pulled, verified, judged, measured, promoted.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_LOG = logging.getLogger("paddock")
_INTERRUPTED = 128 + signal.SIGINT


def main() -> NoReturn:
    """Run the command line, and end the process with the exit status that the outcome deserves."""
    if sys.stdout is None:  # so Python shows a descriptor that was closed; the next file opened would take its number
        sys.exit(_failed(False, "", "stdout is closed", "open it, or send it to /dev/null", 1))
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for what its encoding does not have
    as_json = "--json" in sys.argv[1:]
    try:
        status = app(standalone_mode=False)
        if status == _INTERRUPTED:  # typer takes Ctrl-C for this, and says nothing
            raise KeyboardInterrupt
    except PaddockError as error:
        status = _failed(as_json, error.code, error.message, error.cure, error.exit_status)
    except (KeyboardInterrupt, typer.Abort):
        status = _failed(
            as_json, "interrupted", "interrupted", "run it again: what can be taken up is kept", _INTERRUPTED
        )
    except typer.TyperException as error:
        said = error.format_message().rstrip(".")
        status = _failed(as_json, "wrong-usage", said, "see --help", UsageError.exit_status)
    except Exception as error:
        _LOG.debug("unexpected", exc_info=True)
        said = f"a fault in Paddock: {type(error).__name__}: {error}"
        status = _failed(as_json, "fault", said, "run it as `paddock --verbose ...`, and report what that prints", 1)
    sys.exit(status if isinstance(status, int) else 0)


@app.callback()
def _options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens, to stderr.")] = False,
) -> None:
    if verbose:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        # Not the root: at this level the S3 client prints session tokens and signed addresses.
        _LOG.addHandler(handler)
        _LOG.setLevel(logging.DEBUG)
        _LOG.propagate = False


@app.command()
def inspect(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A .gguf file, a directory, MODEL, or org/name[@rev]:file.gguf.")
    ],
    deep: Annotated[bool, typer.Option("--deep", help="Read the tensor data too.")] = False,
    as_json: Json = False,
) -> int:
    """Judge a GGUF by its header and template: a local file, a directory, or a file on the Hub by range requests
    alone."""
    from paddock.lifecycle.inspection import inspect as look
    from paddock.terminal import render_inspection

    found = look(_parts(), source, deep=deep)
    _show(as_json, found.to_json(), lambda: render_inspection(found))
    return 2 if found.verdict == "reject" else 0


@app.command()
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
    from paddock.lifecycle.preflight import preflight
    from paddock.model.hardware import this_machine
    from paddock.model.units import parse_bytes
    from paddock.planning.placement import Target
    from paddock.planning.plan import Wish
    from paddock.planning.targets import parse_target
    from paddock.terminal import render_preflight

    machine = parse_target(target)
    if ram is not None or vram:
        if machine is not None:
            raise typer.BadParameter("--target excludes --ram and --vram: it has its own")
        main_bytes = parse_bytes(ram) if ram is not None else this_machine().ram_available_bytes
        machine = Target(main_bytes, tuple(map(parse_bytes, vram or ())))
    found = preflight(_parts(), source, Wish(ctx, parallel, kv_type), target=machine, quantization=quant)
    _show(as_json, found.to_json(), lambda: render_preflight(found))
    return 0 if found.plan.fits else 2


@app.command()
def pull(
    model: ModelArgument,
    quant: QuantOption = "auto",
    file: Annotated[
        list[str] | None, typer.Option("--file", metavar="F", help="A GGUF file by its name; again for more.")
    ] = None,
    projector: Annotated[bool, typer.Option("--projector", help="Fetch the multimodal projector too.")] = False,
    limit_rate: Annotated[
        str | None, typer.Option("--limit-rate", metavar="BYTES", help="Per second, such as 20MB.")
    ] = None,
    no_promote: Annotated[bool, typer.Option("--no-promote", help="Leave what is promoted as it is.")] = False,
    ctx: ContextOption = None,
    target: TargetOption = "this-machine",
    as_json: Json = False,
) -> int:
    """Fetch a model that fits the target onto the volume, verified and resumed, and promote it."""
    from paddock.bars import Bars
    from paddock.lifecycle.pull import SERVED
    from paddock.lifecycle.pull import pull as fetch
    from paddock.planning.plan import Wish
    from paddock.planning.targets import parse_target
    from paddock.terminal import render_pull

    wanted = _model(model)
    if not quant.strip():
        raise typer.BadParameter("--quant is empty: name a quantization, or leave it out")
    if file and (quant != "auto" or wanted.variant):
        raise typer.BadParameter("--file excludes --quant and a variant: a named file has its own")
    parts = _parts(limit_rate=limit_rate)
    with Bars(quiet=as_json) as bars:
        pulled = fetch(
            parts,
            wanted,
            quantization=quant,
            files=file or (),
            projector=projector,
            promote=not no_promote,
            wish=Wish(ctx, at_most_trained=True) if ctx else SERVED,
            target=parse_target(target),
            watch=bars,
        )
    _show(as_json, pulled.to_json(), lambda: render_pull(pulled))
    return 0


@app.command()
def onboard(
    model: ModelArgument,
    quant: QuantOption = "auto",
    ctx: ContextOption = None,
    profile: Annotated[ProfileName, typer.Option(help="What it will be used for.")] = ProfileName.CHAT,
    target: TargetOption = "this-machine",
    no_promote: Annotated[bool, typer.Option("--no-promote", help="Leave what is promoted as it is.")] = False,
    as_json: Json = False,
) -> int:
    """Run the whole life in this process: acquire, validate, cache, benchmark, promote, and write the dossier."""
    from paddock.terminal import render_onboarding

    wanted = _model(model)
    _parts()
    # The one door of the library that calls a flow.
    from flows.surroundings import check_prefect_settings

    check_prefect_settings()
    from flows.here import run_here
    from flows.onboard import onboard_model

    state, result = run_here(
        onboard_model,
        model=f"{wanted.model}:{wanted.variant}" if wanted.variant else str(wanted.model),
        revision=wanted.ref or "main",
        quantization=quant,
        context_tokens=ctx,
        profile=profile.value,
        target=target,
        promote=not no_promote,
    )
    _show(as_json, {"state": state, **result.to_json()}, lambda: render_onboarding(result))
    return 0


@app.command("ls")
def list_models(
    in_s3: Annotated[bool, typer.Option("--s3", help="What is in S3 instead.")] = False, as_json: Json = False
) -> int:
    """List what is on the volume: the sum of all snapshots, and what they take with equal bytes stored once."""
    from paddock.terminal import render_entries

    if in_s3:
        return list_s3(as_json)
    volume = _parts().volume
    entries = volume.entries()
    apparent, real = volume.sizes()
    rows = [
        {
            "model": entry.manifest.repository,
            "revision": entry.manifest.revision,
            "variant": entry.manifest.variant,
            "promoted": entry.promoted,
            "default": entry.default,
            "quantization": entry.manifest.quantization,
            "size_bytes": entry.size_bytes,
            "last_used": entry.last_used.isoformat() if entry.last_used else None,
            "uses": volume.usage(entry.manifest.id).requests,
            "pinned": entry.pinned,
        }
        for entry in entries
    ]
    payload = {"models": rows, "apparent_bytes": apparent, "real_bytes": real}
    _show(as_json, payload, lambda: render_entries(rows, apparent, real))
    return 0


@app.command()
def show(model: ModelArgument, as_json: Json = False) -> int:
    """Show a snapshot, the promoted one or that of a revision: its manifest, and the settings to serve it with."""
    from paddock.lifecycle.speaking import chat_in
    from paddock.planning.profile import PROFILES
    from paddock.terminal import render_manifest

    parts = _parts()
    manifest = _snapshot(parts, model)
    promoted = parts.volume.promoted(manifest.model)
    history = [one.to_json() for one in parts.volume.history(manifest.model)]
    chat = chat_in(parts, manifest)
    payload = {
        **json.loads(manifest.to_json()),
        "promoted": promoted.holds(manifest.id),
        "default": promoted.default_id == manifest.id,
        "history": history,
        "chat": json.loads(chat.to_json()),
        "profiles": {name: {**profile.to_json(), "stop": chat.stop} for name, profile in PROFILES.items()},
        "served": parts.volume.usage(manifest.id).to_json(),
    }
    _show(as_json, payload, lambda: render_manifest(manifest, promoted=promoted, chat=chat))
    return 0


@app.command("rm")
def remove(model: ModelArgument, as_json: Json = False) -> int:
    """Remove a model, or a variant or revision of it, and say what that freed."""
    from paddock.lifecycle.locating import revision_of
    from paddock.model.units import human_bytes
    from paddock.terminal import counted, say

    parts = _parts()
    wanted = _model(model)
    revision = None
    if wanted.ref is not None:  # no manifest is read: a damaged snapshot must be removable
        known = [id.revision for id in parts.volume.ids(wanted.model)]
        revision = revision_of(parts, wanted.model, wanted.ref, known=known)
    sizes = {manifest.id: manifest.size_bytes for manifest in parts.volume.snapshots(wanted.model)}
    had_default = parts.volume.promoted(wanted.model).default is not None
    removed, freed = parts.volume.remove(wanted.model, variant=wanted.variant, revision=revision)
    left = parts.volume.promoted(wanted.model)
    rows = [
        {
            "model": str(id.model),
            "revision": id.revision,
            "variant": id.variant,
            "bytes": sizes.get(id),  # None where its manifest cannot be read
            "reason": "asked for",
        }
        for id in removed
    ]
    payload = {"removed": rows, "freed_bytes": freed, "kept": []}

    def render() -> None:
        gone = counted(len(removed), "snapshot")
        say(f"removed {wanted}, {gone}: {human_bytes(freed)} freed")
        if had_default and left.default is None and left.revisions:
            others = ", ".join(sorted(left.revisions))
            say(f"{wanted.model} has no default now; {others} stays promoted: `paddock promote {wanted.model}:VARIANT`")

    _show(as_json, payload, render)
    return 0


@app.command()
def promote(
    model: ModelArgument,
    reason: Annotated[str, typer.Option(help="Why, for the history.")] = "promoted by hand",
    as_json: Json = False,
) -> int:
    """Promote a snapshot of the volume, and make its variant the model's default."""
    from paddock.lifecycle import promotion, retention
    from paddock.terminal import say, say_pruned

    parts = _parts()
    manifest = _snapshot(parts, model)
    done = promotion.promote(parts, manifest.id, reason=reason)
    pruned = retention.prune(parts, manifest.model, manifest.variant)
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

    _show(as_json, payload, render)
    return 0


@app.command()
def rollback(
    model: NameArgument,
    reason: Annotated[str, typer.Option(help="Why, for the history.")] = "rolled back by hand",
    as_json: Json = False,
) -> int:
    """Undo the last change of what a model's name stands for, or of a variant."""
    from paddock.lifecycle import promotion
    from paddock.terminal import say

    parts = _parts()
    wanted = _name(model)
    done = promotion.rollback(parts, wanted.model, wanted.variant, reason=reason)
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

    _show(as_json, payload, render)
    return 0


@app.command()
def history(model: NameArgument, as_json: Json = False) -> int:
    """Show what was promoted when, and why: of a model, or of a variant."""
    from paddock.model.reference import same_variant
    from paddock.terminal import render_history

    wanted = _name(model)
    volume = _parts().volume
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
    _show(as_json, payload, lambda: render_history(lines))
    return 0


for _command in (*cli_stores.COMMANDS, *cli_engine.COMMANDS):
    app.command()(_command)
