"""Read environment variables and commands from the files that deploy Paddock: images, compose, Kubernetes, systemd."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.support.pages import ROOT

INFRA = ROOT / "infra"
IMAGES = sorted((INFRA / "images").glob("*.Dockerfile"))
COMPOSE = INFRA / "compose" / "compose.yaml"
EXAMPLE = INFRA / "compose" / "example.env"
UNITS = sorted(path for path in (INFRA / "systemd").rglob("*") if path.is_file())
KUBERNETES = INFRA / "kubernetes"
VALUES = sorted(KUBERNETES.glob("*-values.yaml"))
MANIFESTS = sorted(set(KUBERNETES.glob("*.yaml")) - set(VALUES))


class Variable(NamedTuple):
    """An environment variable that a file sets. A value from a secret or an interpolation is its text in the file."""

    file: str
    name: str
    value: str


def services() -> dict[str, Any]:
    """The services of the compose file, with its anchors and merges resolved."""
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
    return found


def variables() -> list[Variable]:
    """Every environment variable that one of the files sets."""
    return [*_of_images(), *_of_compose(), *_of_kubernetes(), *_of_units()]


def commands() -> list[tuple[str, list[str]]]:
    """(file, command) of each program that one of the files starts, without a shell or `tini` before it."""
    found = [(path.name, json.loads(words)) for path in IMAGES for words in _lines(path, r"CMD (\[.+\])")]
    for name, service in services().items():
        started = [service.get("command", []), service.get("healthcheck", {}).get("test", [])[1:]]
        found += [(f"{COMPOSE.name} {name}", command) for command in started if command]
    for path in MANIFESTS:
        found += [(path.name, node["args"]) for node in nodes(yaml.safe_load(path.read_text())) if "args" in node]
    for path in UNITS:
        found += [(path.name, shlex.split(line)) for line in _lines(path, r"ExecStart=(/opt.*)")]
    return found


def environment(path: Path) -> dict[str, str]:
    """The environment variables that a unit, or a drop-in of one, sets."""
    words = [word for line in _lines(path, r"Environment=(.*)") for word in shlex.split(line)]
    return dict(word.split("=", 1) for word in words)


def nodes(document: Any) -> Iterator[dict[str, Any]]:
    """Every mapping in a YAML document."""
    if isinstance(document, dict):
        yield document
    for child in document.values() if isinstance(document, dict) else document if isinstance(document, list) else ():
        yield from nodes(child)


def _lines(path: Path, pattern: str) -> list[str]:
    found: list[str] = re.findall(rf"^{pattern}$", path.read_text(), re.MULTILINE)
    return found


def _of_images() -> Iterator[Variable]:
    for path in IMAGES:
        for block in _lines(path, r"ENV ((?:.*\\\n)*.*)"):
            for word in shlex.split(block.replace("\\\n", " ")):
                yield Variable(path.name, *word.split("=", 1))


def _of_compose() -> Iterator[Variable]:
    for name, service in services().items():
        for variable, value in service.get("environment", {}).items():
            yield Variable(f"{COMPOSE.name} {name}", variable, str(value))


def _of_kubernetes() -> Iterator[Variable]:
    for path in (*VALUES, *MANIFESTS):
        for node in nodes(yaml.safe_load(path.read_text())):
            if "name" in node and ("value" in node or "valueFrom" in node):
                yield Variable(path.name, node["name"], str(node.get("value", node.get("valueFrom"))))


def _of_units() -> Iterator[Variable]:
    for path in UNITS:
        for name, value in environment(path).items():
            yield Variable(path.relative_to(INFRA).as_posix(), name, value)
