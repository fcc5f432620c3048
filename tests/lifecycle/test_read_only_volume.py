"""On a volume that is mounted read-only, everything that reads works, and what must write says so in one sentence."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from paddock.lifecycle.clients import Clients
from tests.support.stores import A, publish
from tests.support.tiny_hub import MODEL, NAME, tiny_model

READING = [
    ["ls"],
    ["show", NAME],
    ["history", NAME],
    ["verify"],
    ["plan", NAME, "--ctx", "128"],
    ["inspect", NAME],
]
WRITING = [["pull", NAME], ["promote", NAME], ["rm", NAME], ["pin", NAME], ["rollback", NAME]]
PROGRAM = """
import json, logging, os, sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from paddock import get_gguf_file_path, get_model_config, get_model_path_from_name
from paddock.cli.main import app
from paddock.errors import PaddockError
from paddock.lifecycle.clients import connect
from paddock.lifecycle.locate import locate
from paddock.lifecycle.run.pictures import draw_pictures
from paddock.lifecycle.run.stored_benchmarks import record_benchmark
from paddock.model.reference import Reference
from paddock.store.volume import Usage
from tests.support.benchmarks import a_benchmark
outcomes = []
for arguments in json.loads(sys.argv[1]):
    with redirect_stdout(StringIO()):
        try:
            outcomes.append(app([*arguments, "--json"], standalone_mode=False))
        except PaddockError as error:
            outcomes.append(str(error))
path = get_model_path_from_name(sys.argv[2])
# What a benchmark and a server record.
clients = connect()
manifest = locate(clients, Reference.parse(sys.argv[2]))
with clients.volume.lease(manifest.id), clients.volume.recording():
    record_benchmark(clients, manifest, a_benchmark())
    clients.volume.usage.add(manifest.id, "serve", Usage(1, 2, 3))
pictures = draw_pictures(clients, manifest, a_benchmark()).line
print(json.dumps([*outcomes, pictures, get_gguf_file_path(path).name, get_model_config(path)["model_type"]]))
"""


def test_reading_works_and_writing_says_that_the_volume_is_read_only(
    clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs `unshare -rm`: the package util-linux, and user namespaces allowed")
    volume = clients.volume
    volume.prepare()
    manifest = publish(volume, A, {"tiny-Q8_0.gguf": tiny_model()}, Path(), model=MODEL)
    volume.promote(manifest.id, reason="a test")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shell = 'set -e; mount --bind "$0" "$0"; mount -o remount,ro,bind "$0"; exec "$@"'
    program = [sys.executable, "-c", PROGRAM, json.dumps(READING + WRITING), NAME]
    done = subprocess.run(
        [unshare, "-rm", "sh", "-c", shell, str(volume.root), *program],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=dict(os.environ),
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    *outcomes, pictures, gguf, architecture = json.loads(done.stdout)
    assert outcomes[: len(READING)] == [0] * len(READING)
    for sentence in outcomes[len(READING) :]:
        assert sentence.startswith(f"{volume.root} is read-only: ")
        assert sentence.endswith("mount it writable, or set PADDOCK_VOLUME to another volume")
    assert pictures == "2 pictures drawn, and not kept: the volume cannot be written"
    assert (gguf, architecture) == ("tiny-Q8_0.gguf", "llama")
    assert done.stderr.count("nothing is recorded on the volume") == 1
