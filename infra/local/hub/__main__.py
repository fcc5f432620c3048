"""The local Hub as a program: prints its address in one line, and serves until SIGTERM or SIGINT."""

import argparse
import signal
import sys
from pathlib import Path

from infra.local.hub.repositories import Hub


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m infra.local.hub", description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="the folder that holds the repositories")
    parser.add_argument("--port", type=int, default=0, help="of the Hub's own address; 0 takes a free one")
    parser.add_argument("--ready-file", type=Path, help="gets the address as soon as it answers")
    arguments = parser.parse_args()
    # Blocked before any thread starts, so that all threads leave the signals to sigwait.
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    with Hub(arguments.root).serving(port=arguments.port) as service:
        print(service.address, flush=True)
        if arguments.ready_file is not None:
            temporary = arguments.ready_file.with_name(f"{arguments.ready_file.name}.tmp")
            temporary.write_text(f"{service.address}\n")
            temporary.replace(arguments.ready_file)
        signal.sigwait(signals)
    return 0


if __name__ == "__main__":
    sys.exit(main())
