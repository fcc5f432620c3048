"""Bytes that another program moves: hf_transfer, or huggingface_hub with Xet.

Each runs in a process of its own (`paddock.transfer.backend_process`), since neither can be told to stop, and
one is native code.
It fills a file from the start: nothing is resumed, and what came before a failure is not used. What it moved is not
believed: the caller hashes all of it, as it does with its own.
"""

from __future__ import annotations

import json
import logging
import os
import selectors
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Literal

from paddock.errors import TransferInterrupted, TransferRefused
from paddock.model.source import Address, Source
from paddock.settings import downloader_environment

Backend = Literal["paddock", "hf_transfer", "xet"]

log = logging.getLogger(__name__)

_ROOT = Path(__file__).resolve().parents[2]
_POLL_S = 0.1
_WORTH_A_PROCESS_BYTES = 8 * 1024 * 1024
_NAMES = {"hf_transfer": "hf_transfer", "xet": "huggingface_hub"}
_CURE = "try again, or leave it to Paddock's own engine (PADDOCK_TRANSFER=paddock)"


def fitting(asked: Backend, source: Source, *, limited: bool) -> Backend:
    """The engine to use for a source where `asked` is wanted: Paddock's own where the other one cannot do it, or brings
    nothing."""
    if asked == "paddock" or source.expected.size < _WORTH_A_PROCESS_BYTES:
        return "paddock"
    if source.expected.key is None:  # with no digest to find it out, a short file would pass for a whole one
        return "paddock"
    if asked == "xet" and source.hub_location is None:
        return "paddock"
    if limited:
        log.warning("%s keeps no bandwidth limit: Paddock's own engine fetches %s", _NAMES[asked], source.label)
        return "paddock"
    return asked


def move(
    engine: Backend,
    source: Source,
    path: Path,
    *,
    connections: int,
    stall_s: float,
    tick: Callable[[int], None],
) -> int:
    """Have `engine` write the bytes of `source` to `path`; how many it says that came.

    `tick` is told the bytes that came so far, ten times a second; what it raises ends the transfer. An address that is
    refused is asked for anew, once. hf_transfer tells only whole chunks of 1 MiB: where not one of them ends in
    `stall_s`, nothing comes. Raises TransferInterrupted, TransferRefused, and the errors of the source.
    """
    request: dict[str, object] = {"engine": engine, "path": str(path), "parent": os.getpid()}
    if engine == "xet" and source.hub_location:
        place = {"place": asdict(source.hub_location), "directory": str(_directory(path))}
        return _run(request | place, source, stall_s=stall_s, tick=tick)
    for renew in (False, True):
        address = _address(source, renew=renew, tick=tick)
        where = {"connections": connections, "url": address.url, "headers": dict(address.headers)}
        try:
            return _run(request | where, source, stall_s=stall_s, tick=tick)
        except TransferRefused as refusal:
            if renew:
                raise
            log.info("%s; its address is asked for anew", refusal.message)
    raise AssertionError("the second try returns or raises")


def clean(path: Path) -> None:
    """Remove what huggingface_hub left beside the data when it was killed."""
    shutil.rmtree(_directory(path), ignore_errors=True)


def _address(source: Source, *, renew: bool, tick: Callable[[int], None]) -> Address:
    """The address, asked for in a thread: the one that asks must hear when it is told to stop."""
    came: list[Address | BaseException] = []

    def ask() -> None:
        try:
            came.append(source.address(renew=renew))
        except BaseException as error:  # it is raised again in the thread that called
            came.append(error)

    thread = threading.Thread(target=ask, name="paddock-address", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_POLL_S)
        tick(0)
    if isinstance(came[0], BaseException):
        raise came[0]
    return came[0]


def _run(request: Mapping[str, object], source: Source, *, stall_s: float, tick: Callable[[int], None]) -> int:
    name = _NAMES[str(request["engine"])]
    path = Path(str(request["path"]))
    process = subprocess.Popen(
        [sys.executable, "-m", "paddock.transfer.backend_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # where a vendor prints addresses with their signatures
        cwd=_ROOT,
        env=downloader_environment(
            HF_HUB_DISABLE_PROGRESS_BARS="1", HF_HUB_DISABLE_TELEMETRY="1", HF_HOME=str(_directory(path) / "home")
        ),
        process_group=0,
    )
    try:
        assert process.stdin is not None  # noqa: S101 - says to the type checker what PIPE above means
        assert process.stdout is not None  # noqa: S101 - the same
        with suppress(BrokenPipeError), process.stdin as stdin:
            stdin.write(json.dumps(request).encode())
        with process.stdout as stdout:
            came = _follow(stdout, source, name, stall_s=stall_s, tick=tick)
        if process.wait(timeout=stall_s) == 0:
            return came
    except subprocess.TimeoutExpired:
        pass
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    raise TransferInterrupted(f"{name} ended in the middle of {source.label}", cure=_CURE)


def _directory(path: Path) -> Path:
    """Where huggingface_hub works: beside the data, in the staging directory."""
    return path.with_name("huggingface")


def _follow(stdout: IO[bytes], source: Source, name: str, *, stall_s: float, tick: Callable[[int], None]) -> int:
    """Read its reports until it has closed its output: `{"came": N}`, or last of all `{"error": ...}`."""
    came, heard, rest = 0, time.monotonic(), b""
    with selectors.DefaultSelector() as waiting:
        waiting.register(stdout, selectors.EVENT_READ)
        while True:
            tick(came)
            if waiting.select(_POLL_S):
                data = os.read(stdout.fileno(), 65536)
                if not data:
                    return came
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    report = json.loads(line)
                    if "error" in report:
                        kind = TransferRefused if report["final"] else TransferInterrupted
                        raise kind(f"{name} did not bring {source.label}: {report['error']}", cure=_CURE)
                    if report["came"] > came:
                        came, heard = report["came"], time.monotonic()
            if time.monotonic() > heard + stall_s:
                raise TransferInterrupted(f"{name} brought nothing of {source.label} for {stall_s:g} s", cure=_CURE)
