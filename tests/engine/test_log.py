"""The engine's log, in a process of their own: a mistake there ends the process with a signal."""

from __future__ import annotations

import subprocess
import sys

LOGS_LATER = """
import gc
import llama_cpp.llama_cpp as llama
from paddock.engine.log import Log

def load():
    Log()

load()
gc.collect()
beside = [bytes(1000) for _ in range(1000)]
llama.llama_model_load_from_file(b"/nowhere.gguf", llama.llama_model_default_params())
"""


def test_the_engine_can_log_after_the_log_object_is_unreferenced() -> None:
    """On a GPU the engine logs at each new batch."""
    done = subprocess.run([sys.executable, "-c", LOGS_LATER], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "failed to load model from /nowhere.gguf" in done.stderr
    assert "Traceback" not in done.stderr
