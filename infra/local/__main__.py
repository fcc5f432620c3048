"""Command line of the local stack: up, down, status, env, demo."""

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
from infra.local.supervisor import RunningStack

_UP_S = 600.0
_POLL_S = 0.1


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m infra.local", description=__doc__)
    parser.add_argument("--state", type=Path, default=STATE, help="state directory (default: %(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    up_parser = commands.add_parser("up", help="start all parts in the background")
    commands.add_parser("down", help="stop what `up` started")
    commands.add_parser("status", help="list the running services")
    commands.add_parser(
        "env", help='print shell commands that set the environment: eval "$(python -m infra.local env)"'
    )
    commands.add_parser("demo", help="onboard a model on a temporary stack, and refresh a catalog on two nights")
    supervise_parser = commands.add_parser("supervise")
    supervise_parser.add_argument("--lock", type=int, required=True)
    for command_parser in (up_parser, supervise_parser):
        command_parser.add_argument(
            "--heartbeat", action="store_true", help="make flow runs send a heartbeat every 30 s, not every 180 s"
        )
    options = parser.parse_args(arguments)
    state: Path = options.state.resolve()
    try:
        match options.command:
            case "up":
                return up(state, heartbeat=options.heartbeat)
            case "down":
                return down(state)
            case "status":
                return status(state)
            case "env":
                return env(state)
            case "demo":
                return demo(state / "demo")
            case _:
                return supervisor.supervise(state, options.lock, heartbeat=options.heartbeat)
    except (ServiceError, TimeoutError) as error:
        print(error, file=sys.stderr)
        return 1


def up(state: Path, *, heartbeat: bool) -> int:
    """Start the stack unless it is running, and print how to use it. Returns when it is ready."""
    end = time.monotonic() + _UP_S
    waiting = False
    while (lock := supervisor.acquire(state)) is None:
        stack = supervisor.running(state)
        if stack is not None:
            print("The stack is already running.")
            _print_usage(stack)
            return 0
        if not waiting:
            print("Waiting for another start or stop to finish", flush=True)
            waiting = True
        if time.monotonic() > end:
            raise TimeoutError(f"process {supervisor.owner(state)} holds the lock of {state} and did not become ready")
        time.sleep(_POLL_S)
    process = supervisor.launch(state, lock, heartbeat=heartbeat)
    os.close(lock)
    try:
        stack = _print_log_until_ready(state, process)
    except KeyboardInterrupt:
        print("Stopping")
        supervisor.stop(state)
        return 130
    if stack is None:
        print(f"The stack did not start: see {supervisor.log_path(state)}", file=sys.stderr)
        return 1
    _print_usage(stack)
    return 0


def _print_log_until_ready(state: Path, process: subprocess.Popen[bytes]) -> RunningStack | None:
    """Print the supervisor's log until the stack is ready, and return the stack; None if the supervisor ended."""
    with supervisor.log_path(state).open() as log:
        while True:
            ended = process.poll() is not None
            stack = supervisor.running(state)
            print(log.read(), end="", flush=True)
            if stack is not None or ended:
                return stack
            time.sleep(_POLL_S)


def _print_usage(stack: RunningStack) -> None:
    program = Path(prefect_program())
    if program.is_relative_to(CHECKOUT):
        program = program.relative_to(CHECKOUT)
    print(f"\nPrefect UI: {stack.ui}\n")
    print("Onboard a model, from this checkout:\n")
    print(
        f"PREFECT_API_URL={stack.environment['PREFECT_API_URL']} {program} deployment run onboard-model/onboard"
        f" --param model={MODEL} --watch",
    )
    print("\nOr everything that its catalog wants, as each night does:\n")
    print(
        f"PREFECT_API_URL={stack.environment['PREFECT_API_URL']} {program}"
        " deployment run refresh-catalog/nightly --watch",
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
    print(f"Running, supervised by process {stack.pid}")
    for name, pid in stack.services.items():
        again = f", started again {restarts}x" if (restarts := stack.restarts[name]) else ""
        print(f"  {name}: {'running' if Path(f'/proc/{pid}').exists() else 'ended'}{again}")
    for name in ("PREFECT_API_URL", "HF_ENDPOINT", "AWS_ENDPOINT_URL", "PADDOCK_VOLUME"):
        print(f"  {name}={stack.environment[name]}")
    return 0


def env(state: Path) -> int:
    stack = supervisor.running(state)
    if stack is None:
        print("Nothing is running: run `python -m infra.local up` first", file=sys.stderr)
        return 1
    print(f"unset {' '.join(UNSET)}")
    for name, value in stack.environment.items():
        print(f"export {name}={shlex.quote(value)}")
    return 0


def demo(state: Path) -> int:
    """Onboard the demonstration's model on a temporary stack, separate from the one that `up` starts, then refresh its
    catalog on two nights: on the second, one model is retagged, and one is held back."""
    lock = supervisor.acquire(state)
    if lock is None:
        print(f"Process {supervisor.owner(state)} is already running the demonstration in {state}", file=sys.stderr)
        return 1
    # During the start, exit at once: the subreapers end the services when this process has ended.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: os._exit(128 + number))
    with Stack(state, parts=("hub", "s3", "prefect"), on_line=lambda line: print(line, flush=True)) as stack:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _exit)
        result = _show(stack)
    os.close(lock)
    return result


def _show(stack: Stack) -> int:
    """Run the commands of the demonstration, and return the exit status of the first that fails, else 0."""
    assert stack.hub is not None  # noqa: S101 - for the type checker: `demo` starts it
    for arguments in (["onboard", MODEL], ["refresh"]):
        if result := _paddock(stack.environment, *arguments):
            return result
    print("\nBetween two nights, the authors of two models commit:", flush=True)
    stack.hub.update()
    return _paddock(stack.environment, "refresh")


def _exit(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _paddock(environment: dict[str, str], *arguments: str) -> int:
    print(f"\n$ paddock {' '.join(arguments)}", flush=True)
    command = [sys.executable, "-m", "paddock", *arguments]
    with Service("paddock", command, log=None, environment=inherited() | environment, directory=CHECKOUT) as child:
        result = child.wait()
    return result if result >= 0 else 128 - result


if __name__ == "__main__":
    sys.exit(main())
