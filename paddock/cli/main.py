"""Run the `paddock` command line: parse the arguments, run one command, print its result or its error.

A command calls one function of the library and prints the result for people, or with `--json` as exactly one JSON
object on stdout; logs and progress go to stderr. An error is one sentence (with `--json`: `error`, `message`, `cure`).
No input makes it print a traceback, and a stdout that cannot be written is an error too.

| exit status | meaning |
|---|---|
| 0 | success |
| 1 | failure |
| 2 | the model was checked, and is rejected or does not fit |
| 3 | wrong usage |
| 130 | interrupted |

A MODEL is `org/name[:VARIANT][@REVISION]`, `org/name[@REVISION]:path.gguf` for one file, an address of the Hub, or a
path on the volume (`paddock.cli.model_argument`); a SOURCE is one of these, or a local `.gguf` file or directory.
"""

from __future__ import annotations

import atexit
import gc
import logging
import signal
import sys
from functools import cache
from io import TextIOWrapper
from typing import Annotated, Any, NoReturn

import typer

from paddock import timings
from paddock.cli.commands import TopCommands
from paddock.cli.logs import log_to_stderr, print_stderr
from paddock.cli.output import print_result, report_failure
from paddock.cli.suggestions import cure_of, message_of
from paddock.errors import PaddockError, UsageError
from paddock.untrusted.content import UnusableContent
from paddock.version import VERSION

app = typer.Typer(
    name="paddock",
    cls=TopCommands,
    suggest_commands=False,
    help="Manage GGUF models for llama.cpp: pull, verify, validate, benchmark, promote and serve them.",
    add_completion=False,
    rich_markup_mode=None,  # the help in plain text: importing rich for it takes twice as long as everything else
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_LOG = logging.getLogger("paddock")
_ENGINE = "llama-cpp-python"
_INTERRUPTED = 128 + signal.SIGINT


def main() -> NoReturn:
    """Run the command line, and exit with the status of the result."""
    atexit.register(gc.freeze)  # else Python searches all modules for garbage at its exit: an eighth of a short command
    if sys.stdout is None:  # its descriptor is closed, and the next file that is opened would get its number
        sys.exit(report_failure(False, "", "stdout is closed", "open it, or redirect it to /dev/null", 1))
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for characters that its encoding lacks
    as_json = "--json" in sys.argv[1:]
    try:
        status = _run()
        if status == _INTERRUPTED:  # typer returns this for Ctrl-C, and prints nothing
            raise KeyboardInterrupt
    except PaddockError as error:
        status = report_failure(as_json, error.code, error.message, error.cure, error.exit_status)
    except (KeyboardInterrupt, typer.Abort):
        status = report_failure(
            as_json, "interrupted", "interrupted", "run it again: a transfer is resumed", _INTERRUPTED
        )
    except typer.TyperException as error:
        status = report_failure(as_json, "wrong-usage", message_of(error), cure_of(error), UsageError.exit_status)
    except UnusableContent as error:  # that nothing below knew a better answer to
        cure = f"move {error.source} away" if error.source else "look at what was changed last"
        status = report_failure(as_json, "unusable-content", f"a file cannot be used: {error}", cure, 1)
    except Exception as error:
        _LOG.debug("internal error", exc_info=True)
        message = f"internal error: {type(error).__name__}: {error}"
        status = report_failure(
            as_json, "fault", message, "run it as `paddock --verbose ...`, and report its output", 1
        )
    sys.exit(status if isinstance(status, int) else 0)


def _run() -> Any:
    try:
        return _command_tree()(standalone_mode=False)
    finally:
        if (measured := timings.stop()) and "--json" not in sys.argv[1:]:
            line = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in measured.items())
            print_stderr(f"timings: {line}", line)


@cache
def _command_tree() -> Any:
    """The group of all commands. Typer derives the options of a command when it is looked up."""
    return typer.main.get_command(app)


def _print_version(requested: bool) -> None:
    """Print the versions of Paddock and of the engine, and end. The engine is not imported."""
    if not requested:
        return
    from importlib import metadata

    try:
        engine = metadata.version(_ENGINE)
    except metadata.PackageNotFoundError:
        engine = None
    line = f"paddock {VERSION}, {_ENGINE} {engine or 'is not installed'}"
    payload = {"paddock": VERSION, "engine": engine}
    print_result("--json" in sys.argv[1:], payload, lambda: typer.echo(line))
    raise typer.Exit


@app.callback()
def _main_options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log to stderr.")] = False,
    version: Annotated[  # noqa: ARG001 - its callback prints it
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print Paddock's and the engine's version."
        ),
    ] = False,
    as_json: Annotated[  # noqa: ARG001 - read by CommandGroup
        bool, typer.Option("--json", help="Print one JSON object on stdout.")
    ] = False,
) -> None:
    log_to_stderr(_LOG, verbose=verbose)
