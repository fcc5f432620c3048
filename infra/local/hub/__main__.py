"""The local Hub as a program: prints its address in one line, and serves until SIGTERM or SIGINT."""

import argparse
import signal
import sys
from pathlib import Path

from infra.local.hub.repositories import LocalHub
from infra.local.hub.service import serve_hub


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m infra.local.hub", description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="the folder that holds the repositories")
    parser.add_argument("--port", type=int, default=0, help="of the Hub's own address; 0 takes a free one")
    parser.add_argument("--ready-file", type=Path, help="gets the address as soon as it answers")
    arguments = parser.parse_args()
    # Blocked before any thread starts, so that all threads leave the signals to sigwait.
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        with serve_hub(LocalHub(arguments.root), port=arguments.port) as service:
            _announce(service.address, arguments.ready_file)
            signal.sigwait(signals)
    except OSError as error:
        parser.exit(1, f"the local Hub cannot serve on port {arguments.port}: {error}\n")
    return 0


def _announce(address: str, ready_file: Path | None) -> None:
    print(address, flush=True)
    if ready_file is not None:
        temporary = ready_file.with_name(f"{ready_file.name}.tmp")
        temporary.write_text(f"{address}\n")
        temporary.replace(ready_file)


if __name__ == "__main__":
    sys.exit(main())
