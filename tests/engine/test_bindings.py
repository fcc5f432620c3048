"""What the engine's own process rests on, in a process of its own: a mistake there ends it with a signal."""

from __future__ import annotations

import subprocess
import sys

SPEAKS_LATER = """
import gc
import llama_cpp.llama_cpp as llama
from paddock.engine import bindings

def load():
    bindings.Log()

load()
gc.collect()
beside = [bytes(1000) for _ in range(1000)]
llama.llama_model_load_from_file(b"/nowhere.gguf", llama.llama_model_default_params())
"""


def test_the_engine_may_speak_when_nobody_holds_its_log_any_more() -> None:
    """On a GPU it does so while it answers."""
    done = subprocess.run([sys.executable, "-c", SPEAKS_LATER], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "failed to load model from /nowhere.gguf" in done.stderr
    assert "Traceback" not in done.stderr
