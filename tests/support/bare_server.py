"""llama-server without Paddock, as a second witness of what it answers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from infra.local.ports import LOOPBACK, start_on_free_ports
from infra.local.service import Service
from paddock.serving.engine.llama_server import find_program, llama_server_arguments
from paddock.serving.spec import ServeSpec


@contextmanager
def bare_server(spec: ServeSpec, *options: str) -> Iterator[str]:
    """The base URL of a llama-server with the model, template and parameters of a specification."""
    program = find_program(None)
    with tempfile.TemporaryDirectory() as name:
        template = Path(name, "template.jinja")
        template.write_text(spec.chat.template)
        arguments = ["--model", str(spec.file), "--jinja", "--chat-template-file", str(template), "--no-kv-unified"]
        arguments += ["--no-ui", "--fit", "off", "--offline", "--no-warmup"]
        arguments += [*llama_server_arguments(spec.parameters), *options]

        def launch(ports: list[int]) -> Service:
            return Service(
                "llama-server",
                [str(program.path), "--host", LOOPBACK, "--port", str(ports[0]), *arguments],
                log=Path(name, "log"),
                environment=program.environment(),
            )

        service, (port,) = start_on_free_ports(launch, lambda ports, _: _is_ready(ports[0]), deadline_s=30)
        try:
            yield f"http://{LOOPBACK}:{port}/v1"
        finally:
            service.stop()


def _is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://{LOOPBACK}:{port}/health", verify=False).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
