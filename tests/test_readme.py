"""What the README claims, held against the thing itself."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from paddock import errors
from paddock.planning.placement import GPU_MARGIN_BYTES
from paddock.planning.targets import DRIVER_RESERVED_BYTES
from paddock.settings import Settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SERVING = (ROOT / "docs" / "serving.md").read_text()
MEMORY = (ROOT / "docs" / "memory.md").read_text()


def rows(after: str, text: str = README) -> list[list[str]]:
    """The cells of the first table after a piece of text, without its head."""
    lines = text[text.index(after) :].splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("|---"))
    table = []
    for line in lines[start + 1 :]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    return table


def deployments() -> dict[str, dict[str, str]]:
    """Each deployment of prefect.yaml by `flow-name/name`: its entrypoint and its pool."""
    found = {}
    for one in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]:
        flow = one["entrypoint"].rsplit(".", 1)[1].replace("_", "-")
        found[f"{flow}/{one['name']}"] = {"entrypoint": one["entrypoint"], "pool": one["work_pool"]["name"]}
    return found


def test_the_settings_table_lists_every_setting_with_its_default_and_meaning() -> None:
    documented = {cells[0].strip("`"): (cells[1].strip("`"), cells[2]) for cells in rows("## Settings")}
    actual = {}
    for field in Settings.model_fields.values():
        alias = field.validation_alias
        name = alias if isinstance(alias, str) else str(alias.choices[0])  # type: ignore[union-attr] # AliasChoices
        default = field.default
        shown = "" if default is None else str(int(default) if isinstance(default, bool | float) else default)
        actual[name] = (shown, field.description or "")
    assert {name: cells[0] for name, cells in documented.items()} == {name: cells[0] for name, cells in actual.items()}
    assert {name: cells[1] for name, cells in documented.items()} == {name: cells[1] for name, cells in actual.items()}


def test_the_deployments_table_is_what_prefect_yaml_deploys() -> None:
    documented = {cells[0].strip("`"): cells for cells in rows("it says that it is up")}
    actual = deployments()
    assert set(documented) == set(actual)
    for name, cells in documented.items():
        assert actual[name]["pool"] in cells[1]
        module, function = actual[name]["entrypoint"].rsplit(".", 1)
        parameters = list(inspect.signature(getattr(import_module(module), function).fn).parameters)
        assert [f"`{parameter}`" for parameter in parameters[1:]] == cells[2].split(", ")
        assert parameters[0] == "model"


@pytest.mark.parametrize("cells", rows("## Errors"), ids=lambda cells: cells[0])
def test_every_error_that_the_readme_names_exists(cells: list[str]) -> None:
    for name in re.findall(r"`(\w+)`", cells[1]):
        assert issubclass(getattr(errors, name), errors.PaddockError)


def test_what_is_left_free_on_a_gpu_is_what_the_plan_leaves() -> None:
    cuda, driver = GPU_MARGIN_BYTES // 2**20, DRIVER_RESERVED_BYTES // 2**20
    assert f"leaves {cuda} MiB on each card to CUDA and {driver} to the driver" in " ".join(README.split())
    assert f"{cuda} MiB on each GPU for CUDA itself" in MEMORY


def test_the_commands_table_has_every_command() -> None:
    from paddock.cli.main import app

    named = {one.name or one.callback.__name__ for one in app.registered_commands if one.callback}
    documented = set(re.findall(r"`(?:paddock )?([a-z]+)(?: \[?[A-Z]|`)", README[README.index("| command | does |") :]))
    assert named <= documented


def test_every_make_target_that_the_readme_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    code = [*re.findall(r"`([^`\n]+)`", README + SERVING), *re.findall(r"^make .*", README + SERVING, re.MULTILINE)]
    named = {target for line in code for target in re.findall(r"\bmake ([a-z-]+)", line)}
    assert {"setup", "test", "check"} <= named <= targets


def test_every_metric_that_the_docs_name_is_told() -> None:
    from paddock.serving.metrics import Metrics

    told = Metrics(model="a", server="b").text()
    named = set(re.findall(r"`(paddock_\w+)`", SERVING))
    assert len(named) > 12
    for name in named:
        assert re.search(rf"^# TYPE {name.removesuffix('_total')}(_total)? ", told, re.MULTILINE), name


def test_every_error_of_a_server_that_the_docs_name_is_in_its_code() -> None:
    code = "".join(path.read_text() for path in (ROOT / "paddock" / "serving").glob("*.py"))
    for row in rows("## Errors", SERVING):
        for name in re.findall(r"`(\w+)`", row[1]):
            assert f'"{name}"' in code
