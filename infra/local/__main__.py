"""The local stack from a terminal: up, down, status, env, demo."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from infra.local import supervisor
from infra.local.demo import MODEL
from infra.local.environment import UNSET, inherited
from infra.local.prefect_server import prefect_program
from infra.local.service import Service, ServiceError
from infra.local.stack import STATE, Stack
from infra.local.state import CHECKOUT
from infra.local.supervisor import Running

_UP_S = 600.0
_POLL_S = 0.1


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m infra.local", description=__doc__)
    parser.add_argument(
        "--state", type=Path, default=STATE, help="the directory of all that is kept (default: %(default)s)"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    up_parser = commands.add_parser("up", help="start everything, and leave it running")
    commands.add_parser("down", help="stop what `up` started")
    commands.add_parser("status", help="say what runs")
    commands.add_parser("env", help='print what a shell needs to use the stack: eval "$(python -m infra.local env)"')
    commands.add_parser("demo", help="onboard the demonstration's model on a stack of its own")
    supervise_parser = commands.add_parser("supervise")
    supervise_parser.add_argument("--lock", type=int, required=True)
    for each in (up_parser, supervise_parser):
        each.add_argument("--heartbeat", action="store_true", help="let runs report every 30 s, not every 180 s")
    given = parser.parse_args(arguments)
    state: Path = given.state.resolve()
    try:
        match given.command:
            case "up":
                return up(state, heartbeat=given.heartbeat)
            case "down":
                return down(state)
            case "status":
                return status(state)
            case "env":
                return env(state)
            case "demo":
                return demo(state / "demo")
            case _:
                return supervisor.supervise(state, given.lock, heartbeat=given.heartbeat)
    except (ServiceError, TimeoutError) as error:
        print(error, file=sys.stderr)
        return 1


def up(state: Path, *, heartbeat: bool) -> int:
    """Start the stack unless it is up, and say how to use it. Returns when it is ready."""
    end = time.monotonic() + _UP_S
    waiting = False
    while (lock := supervisor.acquire(state)) is None:
        stack = supervisor.running(state)
        if stack is not None:
            print("It is up already.")
            _introduce(stack)
            return 0
        if not waiting:
            print("Another start or stop is at work: waiting for it", flush=True)
            waiting = True
        if time.monotonic() > end:
            raise TimeoutError(f"process {supervisor.owner(state)} holds {state} and is not ready")
        time.sleep(_POLL_S)
    process = supervisor.launch(state, lock, heartbeat=heartbeat)
    os.close(lock)
    try:
        stack = _follow(state, process)
    except KeyboardInterrupt:
        print("Stopping")
        supervisor.stop(state)
        return 130
    if stack is None:
        print(f"It did not start. {supervisor.log(state)} has the whole of it", file=sys.stderr)
        return 1
    _introduce(stack)
    return 0


def _follow(state: Path, process: subprocess.Popen[bytes]) -> Running | None:
    """Print what the supervisor says until the stack is ready; None when it ended instead."""
    with supervisor.log(state).open() as log:
        while True:
            ended = process.poll() is not None
            stack = supervisor.running(state)
            print(log.read(), end="", flush=True)
            if stack is not None or ended:
                return stack
            time.sleep(_POLL_S)


def _introduce(stack: Running) -> None:
    program = Path(prefect_program())
    if program.is_relative_to(CHECKOUT):
        program = program.relative_to(CHECKOUT)
    print(f"\nPrefect's UI: {stack.ui}\n")
    print("Onboard a model, from this checkout:\n")
    print(
        f"PREFECT_API_URL={stack.environment['PREFECT_API_URL']} {program} deployment run onboard-model/onboard"
        f" --param model={MODEL} --watch",
        flush=True,
    )


def down(state: Path) -> int:
    print("Stopped" if supervisor.stop(state) else "Nothing is running")
    return 0


def status(state: Path) -> int:
    stack = supervisor.running(state)
    if stack is None:
        holder = supervisor.owner(state)
        print("Nothing is running" if holder is None else f"Process {holder} is starting or stopping")
        return 1
    print(f"Up, held by process {stack.pid}")
    for name, pid in stack.services.items():
        print(f"  {name}: {'runs' if Path(f'/proc/{pid}').exists() else 'has ended'}")
    for name in ("PREFECT_API_URL", "HF_ENDPOINT", "AWS_ENDPOINT_URL", "PADDOCK_VOLUME"):
        print(f"  {name}={stack.environment[name]}")
    return 0


def env(state: Path) -> int:
    stack = supervisor.running(state)
    if stack is None:
        print("Nothing is running: `python -m infra.local up` first", file=sys.stderr)
        return 1
    print(f"unset {' '.join(UNSET)}")
    for name, value in stack.environment.items():
        print(f"export {name}={shlex.quote(value)}")
    return 0


def demo(state: Path) -> int:
    """Onboard the demonstration's model on a stack of its own, beside what `up` started, that ends with it."""
    lock = supervisor.acquire(state)
    if lock is None:
        print(f"Process {supervisor.owner(state)} runs the demonstration in {state} already", file=sys.stderr)
        return 1
    # Until all runs, an interruption leaves the services to their guards: they end them when this process is gone.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: os._exit(128 + number))
    with Stack(state, parts=("hub", "s3", "prefect"), say=lambda line: print(line, flush=True)) as own:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _leave)
        result = _onboard(own.environment)
    os.close(lock)
    return result


def _leave(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _onboard(environment: dict[str, str]) -> int:
    command = [sys.executable, "-m", "paddock", "onboard", MODEL]
    with Service("onboard", command, log=None, environment=inherited() | environment, directory=CHECKOUT) as child:
        result = child.wait()
    return result if result >= 0 else 128 - result


if __name__ == "__main__":
    sys.exit(main())
