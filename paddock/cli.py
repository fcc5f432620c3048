"""The terminal's door: parses, calls, prints.

Each command does one thing of the library and prints it for people, or with `--json` as exactly one JSON object on
stdout; logs and progress go to stderr. A failure is one sentence (with `--json`: `error`, `message`, `cure`) and an
exit status: 0 done, 1 could not be done, 2 judged and found wanting, 3 wrong usage. No input makes it print a
traceback.

A MODEL is `org/name[@revision]`; a SOURCE is that, with `:file` for one file of it, or a local `.gguf` file or
directory.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from paddock.errors import NotOnVolume, PaddockError, UsageError

if TYPE_CHECKING:
    from paddock.lifecycle.parts import Parts
    from paddock.model.artifact import Manifest

app = typer.Typer(
    name="paddock",
    help="GGUF models for llama.cpp: pulled, verified, judged, measured, promoted.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL[@REVISION]", help="org/name, at a branch, tag or commit.")]
NameArgument = Annotated[str, typer.Argument(metavar="MODEL", help="org/name.")]
QuantOption = Annotated[str, typer.Option("--quant", metavar="Q", help="A quantization, such as Q4_K_M.")]


class ProfileName(StrEnum):
    CHAT = "chat"
    ROLEPLAY = "roleplay"


def main() -> NoReturn:
    """Run the command line, and end the process with the exit status that the outcome deserves."""
    as_json = "--json" in sys.argv[1:]
    try:
        status = app(standalone_mode=False)
    except PaddockError as error:
        status = _failed(as_json, error.code, error.message, error.cure, error.exit_status)
    except (KeyboardInterrupt, typer.Abort):
        status = _failed(as_json, "interrupted", "interrupted", "run it again: what was fetched is kept", 130)
    except typer.TyperException as error:
        status = _failed(
            as_json, "wrong-usage", error.format_message().rstrip("."), "see --help", UsageError.exit_status
        )
    except BrokenPipeError:
        status = 1
    except Exception as error:
        logging.getLogger("paddock").debug("unexpected", exc_info=True)
        said = f"{type(error).__name__}: {error}"
        status = _failed(as_json, "fault", f"a fault in Paddock: {said}", "run it with --verbose and report that", 1)
    with suppress(BrokenPipeError):
        sys.stdout.flush()
    sys.exit(status if isinstance(status, int) else 0)


@app.callback()
def _options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens, to stderr.")] = False,
) -> None:
    if verbose:
        form = "%(levelname)s %(name)s: %(message)s"
        logging.basicConfig(stream=sys.stderr, level=logging.DEBUG, format=form)


@app.command()
def inspect(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A .gguf file, a directory, or org/name[@rev][:file].")
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
    as_json: Json = False,
) -> int:
    """Fetch a model onto the volume, verified and resumed, and promote it."""
    from paddock.lifecycle.pull import pull as fetch
    from paddock.model.units import parse_bytes
    from paddock.terminal import Bars, render_pull

    name, ref = _model(model)
    parts = _parts(limit_rate_bytes_per_s=parse_bytes(limit_rate) if limit_rate else None)
    with Bars(quiet=as_json) as bars:
        pulled = fetch(
            parts,
            name,
            ref=ref or "main",
            quantization=quant,
            files=file or (),
            projector=projector,
            promote=not no_promote,
            progress=bars.moved,
        )
    _show(as_json, pulled.to_json(), lambda: render_pull(pulled))
    return 0


@app.command()
def onboard(
    model: ModelArgument,
    quant: QuantOption = "auto",
    ctx: Annotated[int | None, typer.Option("--ctx", metavar="N", min=256, help="Tokens of context.")] = None,
    profile: Annotated[ProfileName, typer.Option(help="What it will be used for.")] = ProfileName.CHAT,
    target: Annotated[
        str, typer.Option(help="this-machine, or the memory of the one that serves: 24GiB.")
    ] = "this-machine",
    no_promote: Annotated[bool, typer.Option("--no-promote", help="Leave what is promoted as it is.")] = False,
    as_json: Json = False,
) -> int:
    """Run the whole life in this process: acquire, validate, cache, benchmark, promote, and write the dossier."""
    from paddock.terminal import render_onboarding

    name, ref = _model(model)
    _parts()
    # The one door of the library that calls a flow.
    from flows.here import run_here
    from flows.onboard import onboard_model

    state, result = run_here(
        onboard_model,
        model=str(name),
        revision=ref or "main",
        quantization=quant,
        context_tokens=ctx,
        profile=profile.value,
        target=target,
        promote=not no_promote,
    )
    _show(as_json, {"state": state, **result.to_json()}, lambda: render_onboarding(result))
    return 0


@app.command("ls")
def list_models(as_json: Json = False) -> int:
    """List what is on the volume."""
    from paddock.terminal import render_entries

    volume = _parts().volume
    entries = volume.entries()
    apparent, real = volume.sizes()
    rows = [
        {
            "model": entry.manifest.repository,
            "revision": entry.manifest.revision,
            "promoted": entry.promoted,
            "quantization": entry.manifest.quantization,
            "size_bytes": entry.size_bytes,
            "last_used": entry.last_used.isoformat() if entry.last_used else None,
        }
        for entry in entries
    ]
    payload = {"models": rows, "apparent_bytes": apparent, "real_bytes": real}
    _show(as_json, payload, lambda: render_entries(rows, apparent, real))
    return 0


@app.command()
def show(model: ModelArgument, as_json: Json = False) -> int:
    """Show the manifest of a snapshot: the promoted one, or the one of a revision."""
    from paddock.terminal import render_manifest

    parts = _parts()
    manifest = _snapshot(parts, model)
    promoted = parts.volume.promoted(manifest.model) == manifest.revision
    history = [one.to_json() for one in parts.volume.history(manifest.model)]
    payload = {**json.loads(manifest.to_json()), "promoted": promoted, "history": history}
    _show(as_json, payload, lambda: render_manifest(manifest, promoted=promoted))
    return 0


@app.command("rm")
def remove(model: ModelArgument, as_json: Json = False) -> int:
    """Remove a model, or one revision of it, and say what that freed."""
    from paddock.lifecycle.promotion import resolve_on_volume
    from paddock.terminal import say

    parts = _parts()
    name, ref = _model(model)
    if ref is None:
        gone = [one.revision for one in parts.volume.snapshots(name)]
        freed = parts.volume.remove(name)
    else:
        gone = [resolve_on_volume(parts, name, ref).revision]
        freed = parts.volume.remove(name, gone[0])
    removed = [{"model": str(name), "revision": revision} for revision in gone]
    payload = {"removed": removed, "freed_bytes": freed, "kept": []}
    _show(as_json, payload, lambda: say(f"removed {name}, {len(gone)} revisions: {freed} bytes freed"))
    return 0


@app.command()
def promote(model: ModelArgument, as_json: Json = False) -> int:
    """Make a snapshot of the volume the one that is served."""
    from paddock.lifecycle import promotion
    from paddock.terminal import say

    parts = _parts()
    name, ref = _model(model)
    if ref is None:
        raise typer.BadParameter("promote needs a revision: MODEL@REVISION")
    revision = promotion.resolve_on_volume(parts, name, ref).revision
    previous = promotion.promote(parts, name, revision, reason="promoted by hand")
    payload = {"model": str(name), "revision": revision, "previous": previous}
    _show(as_json, payload, lambda: say(f"promoted {name}@{revision}, before: {previous or 'nothing'}"))
    return 0


@app.command()
def rollback(model: NameArgument, as_json: Json = False) -> int:
    """Promote what was promoted before."""
    from paddock.lifecycle import promotion
    from paddock.terminal import say

    name, _ = _model(model, with_revision=False)
    now, until_now = promotion.rollback(_parts(), name, reason="rolled back by hand")
    payload = {"model": str(name), "revision": now, "previous": until_now}
    _show(as_json, payload, lambda: say(f"rolled back {name} from {until_now} to {now}"))
    return 0


@app.command()
def history(model: NameArgument, as_json: Json = False) -> int:
    """Show what was promoted when, and why."""
    from paddock.terminal import render_history

    name, _ = _model(model, with_revision=False)
    volume = _parts().volume
    if not volume.snapshots(name) and not volume.history(name):
        raise NotOnVolume(f"{name} is not on {volume.label}", cure="pull or onboard it first")
    entries = [one.to_json() for one in volume.history(name)]
    last = entries[-1] if entries else None
    payload = {
        "model": str(name),
        "revision": volume.promoted(name),
        "previous": last["previous"] if last else None,
        "history": entries,
    }
    _show(as_json, payload, lambda: render_history(entries))
    return 0


@app.command()
def bench(
    model: ModelArgument,
    ctx: Annotated[int, typer.Option("--ctx", metavar="N", min=512, help="Tokens of context.")] = 4096,
    as_json: Json = False,
) -> int:
    """Load a model in the engine's own process and measure it."""
    from paddock.lifecycle import judgement
    from paddock.terminal import render_benchmark

    parts = _parts()
    measured = judgement.benchmark(parts, _snapshot(parts, model), ctx)
    _show(as_json, measured.to_json(), lambda: render_benchmark(measured))
    return 0


def _parts(**overrides: Any) -> Parts:
    from paddock import settings
    from paddock.lifecycle.parts import connect

    return connect(
        settings.load().model_copy(update={key: value for key, value in overrides.items() if value is not None})
    )


def _model(text: str, *, with_revision: bool = True) -> tuple[Any, str | None]:
    """Split MODEL[@REVISION] into the name and the revision, or None."""
    from paddock.model.names import ModelName, parse_ref

    name, at, ref = text.partition("@") if with_revision else (text, "", "")
    return ModelName.parse(name), parse_ref(ref) if at else None


def _snapshot(parts: Parts, text: str) -> Manifest:
    """The snapshot of a revision, else the promoted one, else the newest."""
    from paddock.lifecycle.promotion import resolve_on_volume

    name, ref = _model(text)
    ref = ref or parts.volume.promoted(name)
    if ref is not None:
        return resolve_on_volume(parts, name, ref)
    there = parts.volume.snapshots(name)
    if not there:
        raise NotOnVolume(f"{name} is not on {parts.volume.label}", cure="pull or onboard it first")
    return there[-1]


def _show(as_json: bool, payload: dict[str, Any], render: Callable[[], None]) -> None:
    if as_json:
        print(json.dumps(payload, default=str))
    else:
        render()


def _failed(as_json: bool, error: str, message: str, cure: str, status: int) -> int:
    if as_json:
        print(json.dumps({"error": error, "message": message, "cure": cure}))
    else:
        print(f"paddock: {message}{f': {cure}' if cure else ''}", file=sys.stderr)
    return status
