"""The `paddock` command: parse the arguments, run one command, print its result or its failure.

Each command does one thing of the library and prints it for people, or with `--json` as exactly one JSON object on
stdout; logs and progress go to stderr. A failure is one sentence (with `--json`: `error`, `message`, `cure`) and an
exit status: 0 done, 1 could not be done, 2 judged and found wanting, 3 wrong usage. No input makes it print a
traceback, and a stdout that cannot be written is a failure too.

A MODEL is `org/name[:VARIANT][@REVISION]`; a SOURCE is that, `org/name[@REVISION]:path.gguf` for one file, or a local
`.gguf` file or directory.
"""

from __future__ import annotations

import logging
import signal
import sys
from io import TextIOWrapper
from typing import Annotated, NoReturn

import typer

from paddock.cli import acquire, assess, promote, run, volume
from paddock.cli.output import report_failure
from paddock.errors import PaddockError, UsageError

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
        sys.exit(report_failure(False, "", "stdout is closed", "open it, or send it to /dev/null", 1))
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for what its encoding does not have
    as_json = "--json" in sys.argv[1:]
    try:
        status = app(standalone_mode=False)
        if status == _INTERRUPTED:  # typer takes Ctrl-C for this, and says nothing
            raise KeyboardInterrupt
    except PaddockError as error:
        status = report_failure(as_json, error.code, error.message, error.cure, error.exit_status)
    except (KeyboardInterrupt, typer.Abort):
        status = report_failure(
            as_json, "interrupted", "interrupted", "run it again: what can be taken up is kept", _INTERRUPTED
        )
    except typer.TyperException as error:
        said = error.format_message().rstrip(".")
        status = report_failure(as_json, "wrong-usage", said, "see --help", UsageError.exit_status)
    except Exception as error:
        _LOG.debug("unexpected", exc_info=True)
        said = f"a fault in Paddock: {type(error).__name__}: {error}"
        status = report_failure(
            as_json, "fault", said, "run it as `paddock --verbose ...`, and report what that prints", 1
        )
    sys.exit(status if isinstance(status, int) else 0)


@app.callback()
def _main_options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens, to stderr.")] = False,
) -> None:
    if verbose:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        # Not the root: at this level the S3 client prints session tokens and signed addresses.
        _LOG.addHandler(handler)
        _LOG.setLevel(logging.DEBUG)
        _LOG.propagate = False


for _group in (assess, acquire, volume, promote, run):
    for _command_name, _command in _group.COMMANDS.items():
        app.command(_command_name)(_command)
