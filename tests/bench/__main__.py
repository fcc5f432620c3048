"""`make bench`: speed and memory, measured as ratios in one run. Ends with 1 where a bound does not hold."""

from __future__ import annotations

import argparse
import sys

from tests.bench import engine, reader, store, transfer

BENCHES = {"reader": reader.run, "transfer": transfer.run, "store": store.run, "engine": engine.run}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (default: 5)")
    parser.add_argument("what", nargs="*", choices=[*BENCHES, []], help="which to run (default: all)")
    given = parser.parse_args()
    held = [BENCHES[name](given.rounds) for name in given.what or BENCHES]
    sys.exit(0 if all(held) else 1)
