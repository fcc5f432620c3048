"""`make bench`: speed and memory, measured as ratios in one run. Ends with 1 where a bound does not hold."""

from __future__ import annotations

import argparse
import sys

from tests.bench import transfer

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (default: 3)")
    sys.exit(0 if transfer.run(parser.parse_args().rounds) else 1)
