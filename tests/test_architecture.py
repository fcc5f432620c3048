"""Rules on the source files that import-linter cannot state: no import cycles, and no file over 400 lines.

The imports are read from the syntax tree, at any depth: those in a function and under `if TYPE_CHECKING` count too. An
import of a submodule counts as an import of that submodule alone, not of the packages around it: a package that
re-exports names from its submodules would be a cycle otherwise.
"""

import ast
from graphlib import CycleError, TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
PACKAGES = ("paddock", "tasks", "flows", "infra")
MOST_LINES = 400


def modules(root: Path, packages: tuple[str, ...] = PACKAGES) -> dict[str, Path]:
    """Each Python file below the packages, by its dotted name."""
    paths = [path for package in packages for path in sorted((root / package).rglob("*.py"))]
    return {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def imports(name: str, files: dict[str, Path]) -> set[str]:
    """The modules of `files` that module `name` imports, at any depth of its code."""
    package = name if files[name].name == "__init__.py" else name.rpartition(".")[0]
    imported: set[str] = set()
    for node in ast.walk(ast.parse(files[name].read_bytes())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = resolve_name("." * node.level + (node.module or ""), package)
            members = {f"{source}.{alias.name}" for alias in node.names}
            imported |= {member if member in files else source for member in members}
    return (imported & files.keys()) - {name}


def find_cycle(files: dict[str, Path]) -> list[str]:
    """One cycle of imports, its first module repeated at the end; empty where there is none."""
    graph = {name: imports(name, files) for name in files}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        cycle: list[str] = error.args[1]
        return cycle[::-1]  # graphlib lists what is imported before what imports it
    return []


def test_no_import_cycle_exists() -> None:
    cycle = find_cycle(modules(CHECKOUT))

    assert not cycle, " imports ".join(cycle)


def test_no_file_has_more_than_400_lines() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in modules(CHECKOUT).values()}

    assert {str(path.relative_to(CHECKOUT)): lines for path, lines in lengths.items() if lines > MOST_LINES} == {}


@pytest.mark.parametrize(
    "upward",
    [
        "import package.high",
        "from package import high",
        "from package.high import name",
        "from . import high",
        "from .high import name",
        "def use():\n    from package.high import name",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from package.high import name",
    ],
)
def test_each_form_of_an_import_upward_is_found_to_close_a_cycle(tmp_path: Path, upward: str) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("from package.high import name\n")
    (package / "high.py").write_text("from package.low import name\n")
    (package / "low.py").write_text("name = 1\n")
    files = modules(tmp_path, ("package",))
    assert find_cycle(files) == []

    (package / "low.py").write_text(f"{upward}\n")

    assert set(find_cycle(files)) == {"package.high", "package.low"}


def test_no_two_public_classes_share_a_name() -> None:
    places: dict[str, list[str]] = {}
    for name, path in modules(CHECKOUT).items():
        for node in ast.parse(path.read_bytes()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(name)

    assert {name: found for name, found in places.items() if len(found) > 1} == {}
