"""Run the local Hub: print its address on one line, and serve until SIGTERM or SIGINT."""

import argparse
import signal
import sys
from pathlib import Path

from infra.local.hub.repositories import LocalHub
from infra.local.hub.service import serve_hub


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m infra.local.hub", description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="the folder that holds the repositories")
    parser.add_argument("--port", type=int, default=0, help="port of the Hub's address; 0 takes a free one")
    parser.add_argument("--ready-file", type=Path, help="file to write the address to when the Hub is ready")
    arguments = parser.parse_args()
    # Blocked before any thread starts, so that every thread inherits the mask and sigwait gets the signals.
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
    """Write the file first, so that who reads the line finds it."""
    if ready_file is not None:
        temporary = ready_file.with_name(f"{ready_file.name}.tmp")
        temporary.write_text(f"{address}\n")
        temporary.replace(ready_file)
    print(address, flush=True)


if __name__ == "__main__":
    sys.exit(main())
