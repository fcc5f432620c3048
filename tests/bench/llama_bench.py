"""Run llama.cpp's own llama-bench, built for the installed engine."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping

from tests.support import llama_tools


def measure(arguments: Mapping[str, object]) -> list[list[float]]:
    """Tokens per second of each repetition of each test (prompt processing first), for llama-bench's options."""
    program = str(llama_tools.program("llama-bench"))
    command = [program, "-o", "json", *(str(word) for pair in arguments.items() for word in pair)]
    environment = llama_tools.environment()
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=600)
    return [test["samples_ts"] for test in json.loads(process.stdout)]
