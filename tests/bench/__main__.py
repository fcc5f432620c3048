"""Run the benchmarks of `make bench`: speed and memory, as ratios within one run. Exits with 1 if a bound is missed."""

from __future__ import annotations

import argparse
import sys

from tests.bench import (
    commands,
    engine,
    large_commands,
    mirror,
    orchestration,
    quality,
    reader,
    scrub,
    store,
    transfer,
    watch,
)

BENCHES = {
    "commands": commands.run,
    "large-commands": large_commands.run,
    "reader": reader.run,
    "transfer": transfer.run,
    "mirror": mirror.run,
    "store": store.run,
    "scrub": scrub.run,
    "engine": engine.run,
    "quality": quality.run,
    "watch": watch.run,
    "orchestration": orchestration.run,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each (default: 5)")
    parser.add_argument("names", nargs="*", choices=[*BENCHES, []], help="benchmarks to run (default: all)")
    options = parser.parse_args()
    held = [BENCHES[name](options.rounds) for name in options.names or BENCHES]
    sys.exit(0 if all(held) else 1)
