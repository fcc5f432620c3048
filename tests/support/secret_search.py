"""Search for secrets in everything that a run leaves: files, objects, Prefect's API and its database, command lines.

A secret is found plain, URL-quoted, as in JSON, and in base64, whatever stands before it: `user:password` is encoded as
a whole in the header of a proxy. Base64 may be broken into lines, as where Prefect stores the exception of a run.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import quote

import asyncpg
import httpx
import psutil
from mypy_boto3_s3 import S3Client

from infra.local.postgres import Postgres

_FILTERED = (
    "flows",
    "flow_runs",
    "task_runs",
    "deployments",
    "artifacts",
    "logs",
    "variables",
    "work_pools",
    "work_queues",
    "block_documents",
    "automations",
    "v2/concurrency_limits",
)
"""Names of the collections of Prefect's API, each listed by `POST /NAME/filter`."""
_PAGE = 200


class Place(NamedTuple):
    """Something that was left: its name, for messages, and its content."""

    name: str
    content: bytes


class SecretSearch:
    """Finds secrets, given by their names. `allowed` has pairs of a secret and the place where it may be."""

    def __init__(self, secrets: Mapping[str, str], *, allowed: Iterable[tuple[str, str]] = ()) -> None:
        self._forms = {form: (name, kind) for name, value in secrets.items() for form, kind in _forms(value).items()}
        self._pattern = re.compile(b"|".join(map(re.escape, sorted(self._forms, key=len, reverse=True))))
        self._allowed = set(allowed)

    def found(self, places: Iterable[Place]) -> set[str]:
        """A line for each secret and form of it in each place where it is not allowed."""
        lines = set[str]()
        for place in places:
            on_one_line = place.content.replace(b"\\n", b"").replace(b"\n", b"")
            for form in {*self._pattern.findall(place.content), *self._pattern.findall(on_one_line)}:
                name, kind = self._forms[form]
                if (name, place.name) not in self._allowed:
                    lines.add(f"{name}, {kind}, in {place.name}")
        return lines


def _forms(secret: str) -> dict[bytes, str]:
    raw = secret.encode()
    forms = dict[bytes, str]()
    for shift, skipped in enumerate((0, 2, 3)):  # characters that what stands before the secret has a part in
        for encode in (b64encode, urlsafe_b64encode):
            forms[encode(b"\0" * shift + raw)[skipped : (shift + len(raw)) * 8 // 6]] = "base64"
    forms[json.dumps(secret)[1:-1].encode()] = "JSON"
    forms[quote(secret, safe="").encode()] = "URL-quoted"
    forms[raw] = "plain"
    return forms


def files(root: Path) -> Iterator[Place]:
    """All regular files below a directory, by their paths in it, and their names themselves."""
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        with suppress(FileNotFoundError):  # a server may remove it meanwhile
            if path.is_symlink():
                yield Place(f"the link {name}", str(path.readlink()).encode())
            elif path.is_file():
                yield Place(name, name.encode() + b"\0" + path.read_bytes())


def objects(client: S3Client, bucket: str, prefix: str = "") -> Iterator[Place]:
    """All objects of a bucket whose keys have this prefix, with their metadata."""
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for listed in page.get("Contents", []):
            answer = client.get_object(Bucket=bucket, Key=listed["Key"])
            about = json.dumps([listed["Key"], answer["Metadata"], answer["ResponseMetadata"]["HTTPHeaders"]])
            yield Place(f"the object {listed['Key']}", about.encode() + answer["Body"].read())


def tables(postgres: Postgres) -> list[Place]:
    """All tables of Prefect's database, each row as text."""

    async def read() -> list[Place]:
        connection = await asyncpg.connect(postgres.url.replace("postgresql+asyncpg", "postgresql"))
        try:
            names = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
            found = []
            for (name,) in names:
                rows = await connection.fetch(f'SELECT t::text FROM "{name}" t')
                found.append(Place(f"the table {name}", "\n".join(row[0] for row in rows).encode()))
            return found
        finally:
            await connection.close()

    return asyncio.run(read())


def answers(api: httpx.Client) -> Iterator[Place]:
    """All that Prefect's API gives of runs, states, logs, artifacts, events, blocks, variables, deployments and pools.

    `api` has the address of the API as its base.
    """
    for name in _FILTERED:
        rows = list(_pages(api, f"/{name}/filter"))
        yield Place(f"the API's {name}", json.dumps(rows).encode())
        if name == "work_pools":
            for pool in rows:
                yield Place(f"the workers of {pool['name']}", _post(api, f"/work_pools/{pool['name']}/workers/filter"))
        if name in {"flow_runs", "task_runs"}:
            singular = name.removesuffix("s")
            for run in rows:
                states = api.get(f"/{singular}_states/", params={f"{singular}_id": run["id"]}).raise_for_status()
                yield Place(f"the API's states of {name}", states.content)
    page = api.post("/events/filter", json={"limit": 50}).raise_for_status()
    yield Place("the API's events", page.content)
    while following := page.json()["next_page"]:
        page = api.get(following).raise_for_status()
        yield Place("the API's events", page.content)


def _pages(api: httpx.Client, path: str) -> Iterator[dict[str, Any]]:
    offset = 0
    while rows := api.post(path, json={"limit": _PAGE, "offset": offset}).raise_for_status().json():
        yield from rows
        offset += len(rows)


def _post(api: httpx.Client, path: str) -> bytes:
    return api.post(path, json={}).raise_for_status().content


class CommandLines:
    """Collects the command lines of all descendants of this process, several times a second, as `places`."""

    def __init__(self, *, every_s: float = 0.2) -> None:
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._collect, name="command-lines")
        self._found = set[str]()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def places(self) -> list[Place]:
        return [Place("a command line", line.encode()) for line in sorted(self._found)]

    def _collect(self) -> None:
        process = psutil.Process()
        while not self._stop.wait(self._every_s):
            for child in process.children(recursive=True):
                with suppress(psutil.Error):
                    self._found.add("\0".join(child.cmdline()))
