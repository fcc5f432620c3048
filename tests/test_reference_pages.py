"""Hold the reference tables of docs/ to the code: settings, commands, errors, flows, artifacts, metrics."""

from __future__ import annotations

import ast
import re
from enum import Enum
from typing import Any

import pytest
import typer.main
import yaml

import paddock
from infra.bootstrap import POOLS
from paddock import errors
from paddock.cli.main import app
from paddock.lifecycle.retries import RETRY_DELAYS_S
from paddock.model.quantization import PREFERRED
from paddock.planning.placement import GPU_MARGIN_BYTES
from paddock.planning.targets import CARDS_MIB, DRIVER_RESERVED_BYTES, parse_target
from paddock.settings import SETTINGS, Setting, Settings
from paddock.settings.values import Number, OneOf, Whole
from paddock.store.features import FEATURES
from tests.support.pages import COMMANDS, PAGES, ROOT, code, rows, section, text_of

# Settings


def default_of(name: str) -> str:
    default = getattr(Settings, name)
    return "" if default is None else str(int(default) if isinstance(default, bool | float) else default)


def bounds_of(setting: Setting) -> str:
    """The bounds of a number as the table writes them, or ""."""
    parse = setting.parse
    if isinstance(parse, Number) and parse.above is not None:
        return f"more than {parse.above}" + (f", up to {parse.at_most}" if parse.at_most is not None else "")
    if isinstance(parse, Number | Whole) and parse.at_least is not None:
        return f"{parse.at_least} or more" if parse.at_most is None else f"{parse.at_least} to {parse.at_most}"
    return ""


def test_the_settings_tables_list_every_setting_once() -> None:
    listed = [code(cells[0]) for cells in rows(text_of("settings.md")) if len(cells) == 4]
    assert sorted(listed) == sorted(setting.names[0] for setting in SETTINGS.values())


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_is_documented_with_its_default_and_bounds(name: str) -> None:
    text, setting = text_of("settings.md"), SETTINGS[name]
    cells = next(cells for cells in rows(text) if code(cells[0]) == setting.names[0])
    assert code(cells[1]) == default_of(name)
    assert bounds_of(setting) in ("", cells[2])
    if isinstance(setting.parse, OneOf):
        assert set(re.findall(r"`([^`]+)`", cells[2])) == set(setting.parse.texts)
    assert all(f"`{variable}`" in text for variable in setting.names)


# Commands


def test_there_is_a_section_for_each_command() -> None:
    documented = re.findall(r"^## paddock ([a-z]+(?: [a-z]+)?)$", text_of("commands.md"), re.MULTILINE)
    assert sorted(documented) == sorted(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_documented_with_its_arguments_options_and_defaults(name: str) -> None:
    body = section(text_of("commands.md"), f"## paddock {name}")
    documented = {code(cells[0]).partition(" ")[0]: code(cells[1]) for cells in rows(body)}
    options = {one.opts[0]: shown(one.default) for one in COMMANDS[name].params if one.param_type_name == "option"}
    assert options.pop("--json") == ""
    assert documented == options
    arguments = [one.metavar or one.name for one in COMMANDS[name].params if one.param_type_name == "argument"]
    assert body.strip().startswith(f"`{' '.join(['paddock', name, *arguments])}`")


def shown(default: Any) -> str:
    if isinstance(default, Enum):
        return str(default.value)
    return "" if default is None or default is False else str(default)


def test_the_options_before_a_command_are_documented() -> None:
    body = section(text_of("commands.md"), "## paddock")
    documented = {option for cells in rows(body) for option in re.findall(r"`(-[^`]+)`", cells[0])}
    group = typer.main.get_command(app)
    own = {option for one in group.params for option in one.opts}
    assert documented == own | set(group.context_settings["help_option_names"])


# Errors


def error_classes() -> list[type[errors.PaddockError]]:
    """The classes that are raised: those without a class below them."""
    classes = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.PaddockError)]
    return [one for one in classes if not any(other is not one and issubclass(other, one) for other in classes)]


def error_rows() -> dict[str, list[str]]:
    return {code(cells[0]): cells for cells in rows(text_of("errors.md")) if len(cells) == 5}


def test_the_errors_tables_list_every_error_once() -> None:
    listed = [code(cells[0]) for cells in rows(text_of("errors.md")) if len(cells) == 5]
    assert sorted(listed) == sorted(one.__name__ for one in error_classes())


@pytest.mark.parametrize("error", error_classes(), ids=lambda error: error.__name__)
def test_an_error_is_documented_with_its_code_exit_status_cause_and_cure(error: type[errors.PaddockError]) -> None:
    _, written, status, cause, cure = error_rows()[error.__name__]
    assert code(written) == error("").code
    assert int(status) == error.exit_status
    assert cause
    assert cure


@pytest.mark.parametrize(
    ("heading", "is_transient", "exit_status"),
    [
        ("## Transient errors", True, 1),
        ("## Usage errors", False, 3),
        ("## Operation errors", False, 1),
        ("## Model errors", False, 2),
    ],
)
def test_an_error_stands_in_the_section_of_its_branch(heading: str, is_transient: bool, exit_status: int) -> None:
    for cells in rows(section(text_of("errors.md"), heading)):
        error = getattr(errors, code(cells[0]))
        assert issubclass(error, errors.TransientError) == is_transient
        assert error.exit_status == exit_status


# Flows


def deployments() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    return found


def parameters_of(entrypoint: str) -> dict[str, str]:
    """The parameters of a flow with their defaults. It is parsed, since importing a flow takes seconds."""
    module, name = entrypoint.rsplit(".", 1)
    tree = ast.parse((ROOT / module.replace(".", "/")).with_suffix(".py").read_text())
    flow = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
    arguments = flow.args.args
    defaults = [None] * (len(arguments) - len(flow.args.defaults)) + [
        ast.literal_eval(one) for one in flow.args.defaults
    ]
    return {one.arg: as_json(default) for one, default in zip(arguments, defaults, strict=True)}


def as_json(default: Any) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return "" if default is None else str(default)


def test_the_deployments_table_is_what_prefect_yaml_deploys() -> None:
    documented = [[code(cell) for cell in cells[:3]] for cells in rows(section(text_of("flows.md"), "## Deployments"))]
    deployed = []
    for one in deployments():
        flow = one["entrypoint"].rsplit(".", 1)[1].replace("_", "-")
        deployed.append([f"{flow}/{one['name']}", one["entrypoint"], one["work_pool"]["name"]])
    assert sorted(documented) == sorted(deployed)


@pytest.mark.parametrize("entrypoint", [one["entrypoint"] for one in deployments()])
def test_a_flow_is_documented_with_its_parameters_and_defaults(entrypoint: str) -> None:
    body = section(text_of("flows.md"), f"### {entrypoint.rsplit('.', 1)[1]}")
    documented = {code(cells[0]): code(cells[1]) for cells in rows(body)}
    assert documented == parameters_of(entrypoint)


@pytest.mark.parametrize("page", ["flows.md", "deploy.md"])
def test_the_pools_tables_list_every_pool(page: str) -> None:
    heading = "## Pools" if page == "flows.md" else "## Work pools"
    assert {code(cells[0]) for cells in rows(section(text_of(page), heading))} == set(POOLS)


def test_the_table_of_s3_features_is_what_the_code_needs() -> None:
    documented = rows(section(text_of("store-in-s3.md"), "## Features of the server"))
    assert documented == [[feature.name, "yes" if feature.is_needed else "no", feature.lost] for feature in FEATURES]


def test_a_deployment_that_is_named_exists() -> None:
    deployed = {f"{one['entrypoint'].rsplit('.', 1)[1].replace('_', '-')}/{one['name']}" for one in deployments()}
    named = {name for page in PAGES for name in re.findall(r"\b[a-z]+-model/[a-z-]+", page.read_text())}
    assert named <= deployed


def test_the_retries_table_has_the_delays_of_each_kind_of_step() -> None:
    documented = {code(cells[0]): cells[1] for cells in rows(section(text_of("flows.md"), "## Retries"))}
    assert documented == {str(kind): ", ".join(map(str, delays)) or "none" for kind, delays in RETRY_DELAYS_S.items()}


def artifacts() -> dict[str, str]:
    """The kinds of artifacts in the calls that create them, with their types in Prefect."""
    found = {}
    paths = set((ROOT / "tasks").glob("*artifacts.py")) - {ROOT / "tasks" / "escaped_artifacts.py"}
    trees = [ast.parse(path.read_text()) for path in paths]
    for node in (node for tree in trees for node in ast.walk(tree)):
        called = (
            re.fullmatch(r"create_(table|page|progress)", ast.unparse(node.func))
            if isinstance(node, ast.Call)
            else None
        )
        if called and isinstance(node, ast.Call):
            key = next(keyword.value for keyword in node.keywords if keyword.arg == "key")
            assert isinstance(key, ast.Call)
            found[str(ast.literal_eval(key.args[0]))] = called[1].replace("page", "markdown")
    return found


def test_the_artifacts_table_lists_every_kind_with_its_type() -> None:
    documented = {code(cells[0]): cells[1] for cells in rows(section(text_of("flows.md"), "## Artifacts"))}
    assert documented == artifacts()


# Planning


def test_the_cards_are_those_that_a_target_names() -> None:
    listed = re.search(r"Known cards: (.+?)\.\s", section(text_of("memory.md"), "## Targets"), re.DOTALL)
    assert listed
    assert set(re.findall(r"`([^`]+)`", listed[1])) == set(CARDS_MIB)


@pytest.mark.parametrize("cells", rows(section(text_of("memory.md"), "## Targets")), ids=lambda cells: cells[0])
def test_a_target_that_is_documented_is_one(cells: list[str]) -> None:
    target = parse_target(code(cells[0]))
    assert (target is None) == (code(cells[0]) == "this-machine")


def test_the_order_of_quantizations_is_that_of_the_code() -> None:
    assert f"in this order: {', '.join(PREFERRED)}," in " ".join(text_of("pull.md").split())


def test_the_margins_are_those_of_a_plan() -> None:
    cuda, driver = GPU_MARGIN_BYTES // 2**20, DRIVER_RESERVED_BYTES // 2**20
    assert f"{cuda} MiB on each GPU" in text_of("memory.md")
    assert f"{cuda} MiB on each card to CUDA and {driver} to the driver" in " ".join(text_of("limits.md").split())


# Serving


def test_every_metric_that_is_documented_is_exported() -> None:
    from paddock.serving.metrics import Metrics

    exported = Metrics(model="a", server="b").text()
    named = set(re.findall(r"`(paddock_\w+\w)`", text_of("serving.md")))
    assert len(named) > 12
    for name in named:
        assert re.search(rf"^# TYPE {name.removesuffix('_total')}(_total)? ", exported, re.MULTILINE), name


def test_every_error_code_of_a_server_is_in_its_code() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "paddock" / "serving").rglob("*.py"))
    documented = rows(section(text_of("serving.md"), "## Errors"))
    assert len(documented) > 5
    for cells in documented:
        for name in re.findall(r"`(\w+)`", cells[1]):
            assert f'"{name}"' in sources


# The rest


def test_the_public_functions_are_documented() -> None:
    documented = {code(cells[0]) for cells in rows(text_of("python.md"))}
    assert documented == {name for name in paddock.__all__ if not name.startswith("_")}


def test_the_directories_of_the_volume_are_those_of_the_store() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "paddock" / "store").rglob("*.py"))
    for page in PAGES:
        for name in re.findall(r"`\.paddock/(\w+)", page.read_text()):
            assert f'"{name}"' in sources


def test_the_architecture_shows_every_package_of_the_library() -> None:
    tree = section(text_of("contributing.md"), "## Architecture")
    for parent, indent in ((ROOT / "paddock", "  "), (ROOT / "paddock" / "lifecycle", "    ")):
        shown_there = set(re.findall(rf"^{indent}(\w+)/", tree, re.MULTILINE))
        assert shown_there == {path.parent.name for path in parent.glob("*/__init__.py")}
