"""llama-server without Paddock, as a second witness of what it answers."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import openai

from paddock.serving.llama_server import SOCKET, find_program, llama_server_arguments
from paddock.serving.spec import ServeSpec
from tests.support.serving import wait_for


@contextmanager
def bare_server(spec: ServeSpec, *options: str) -> Iterator[openai.OpenAI]:
    """OpenAI's client of a llama-server with the model, template and parameters of a specification."""
    program = find_program(None)
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        template = home / "template.jinja"
        template.write_text(spec.chat.template)
        arguments = ["--model", str(spec.file), "--host", str(home / SOCKET), "--jinja"]
        arguments += ["--chat-template-file", str(template), "--no-kv-unified", "--no-ui", "--fit", "off", "--offline"]
        arguments += ["--no-warmup", *llama_server_arguments(spec.parameters), *options]
        with (home / "log").open("wb") as log:
            process = subprocess.Popen(
                [str(program.path), *arguments], stdout=log, stderr=log, env=program.environment(), cwd=home
            )
        transport = httpx.HTTPTransport(uds=str(home / SOCKET), limits=httpx.Limits(max_keepalive_connections=0))
        try:
            with httpx.Client(transport=transport, base_url="http://bare", timeout=60) as http:

                def is_ready() -> bool:
                    assert process.poll() is None, (home / "log").read_text()[-2000:]
                    with suppress(httpx.TransportError):
                        return http.get("/health").status_code == httpx.codes.OK
                    return False

                wait_for(is_ready)
                yield openai.OpenAI(base_url="http://bare/v1", api_key="unused", max_retries=0, http_client=http)
        finally:
            process.terminate()
            process.wait(10)
