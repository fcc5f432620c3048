"""Write a fake llama-server, whose `/metrics` returns what a test needs.

The program listens on the UNIX socket given by `--host`, is ready at once, returns the eight tokens of the canary, and
answers every chat at once with the same word, and renders chats as the sandbox does. It serves what the real
llama-server cannot be made to serve: metrics of another version, or of a proxy; and it is fast where a test is about
the server in front of it.
"""

from __future__ import annotations

import sys
from pathlib import Path

_PROGRAM = """#!{python}
import json, socketserver, sys
from http.server import BaseHTTPRequestHandler

METRICS = {metrics}
MESSAGE = {{"role": "assistant", "content": "Hello."}}
ANSWER = {{"choices": [{{"index": 0, "message": MESSAGE, "finish_reason": "stop"}}]}}
TOKEN = {{"top_logprobs": [{{"logprob": -0.5}}, {{"logprob": -2.0}}]}}
ANSWERS = {{
    "/health": (200, "application/json", json.dumps({{"status": "ok"}})),
    "/slots": (200, "application/json", "[]"),
    "/completion": (200, "application/json", json.dumps({{"completion_probabilities": [TOKEN] * 8}})),
    "/v1/chat/completions": (200, "application/json", json.dumps(ANSWER)),
    "/metrics": METRICS,
}}


def rendered(body):
    sys.path.insert(0, {root!r})
    from datetime import datetime
    from pathlib import Path
    from paddock.chat.sandbox import date_variables, make_environment
    from paddock.chat.variables import server_variables
    now = datetime.now()
    source = Path(sys.argv[sys.argv.index("--chat-template-file") + 1]).read_text()
    given = {{name: value for name, value in body.items() if value}} | body["chat_template_kwargs"]
    variables = {{**server_variables(now, bos="", eos=""), **date_variables(now), **given}}
    try:
        prompt = make_environment().from_string(source).render(variables)
        return 200, "application/json", json.dumps({{"prompt": prompt}})
    except Exception:
        return 400, "application/json", "{{}}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        content = self.rfile.read(int(self.headers.get("content-length", 0)))
        is_rendering = self.path == "/apply-template"
        status, kind, body = rendered(json.loads(content)) if is_rendering else ANSWERS[self.path]
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    do_POST = do_GET

    def address_string(self):
        return "unix"

    def log_message(self, *_):
        pass


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


Server(sys.argv[sys.argv.index("--host") + 1], Handler).serve_forever()
"""


def llama_server_with(path: Path, *, status: int, content_type: str, body: str) -> Path:
    """Write the program to `path`."""
    metrics = repr((status, content_type, body))
    root = str(Path(__file__).resolve().parents[2])
    path.write_text(_PROGRAM.format(python=sys.executable, metrics=metrics, root=root))
    path.chmod(0o755)
    return path
