"""The commands by their names. A command's module is imported, and its options are derived, when the command is looked
up: one command starts without the others.

A value that typer has no need to convert, such as that of a flag, costs no import of pydantic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from paddock.cli.options import timed
from paddock.cli.suggestions import CommandGroup, LightHelp

COMMANDS = {
    "inspect": "assess.inspect",
    "plan": "assess.plan",
    "pull": "acquire.pull",
    "onboard": "acquire.onboard",
    "cache": "acquire.cache",
    "restore": "acquire.restore",
    "ls": "volume.list_models",
    "show": "volume.show",
    "rm": "volume.remove",
    "pin": "volume.pin",
    "unpin": "volume.unpin",
    "gc": "gc.collect_garbage",
    "verify": "verify.verify",
    "usage": "usage.usage",
    "promote": "promote.promote",
    "rollback": "promote.rollback",
    "history": "promote.history",
    "refresh": "refresh.refresh",
    "bench": "run.bench",
    "quality": "run.quality",
    "serve": "run.serve",
    "compare": "compare.compare",
    "cost": "cost.cost",
    "doctor": "doctor.doctor",
    "metrics": "metrics.metrics",
    "catalog": "commands.catalog",
}
"""The module of this package and the function of each command, in the order of the help. A Typer is a group."""
CATALOG_COMMANDS = {"add": "catalog.add", "check": "catalog.check", "schema": "catalog.schema"}

TIMED = frozenset({"inspect", "plan", "pull", "onboard", "restore", "ls", "refresh"})
"""The commands that have `--timings`."""


class _LightCommand(LightHelp, TyperCommand):
    """A command that imports pydantic only for values that typer has to convert."""

    def __init__(self, *arguments: Any, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        for parameter in self.params:
            if descriptor := getattr(parameter, "type_descriptor", None):
                parameter._runtime_param = _Conversion(descriptor)  # type: ignore[attr-defined]  # made when it is used


class _Conversion:
    """In place of typer's own conversion of a parameter, which it asks only for what is neither a text nor a default:
    typer makes each of them with pydantic, whose import takes longer than a short command."""

    def __init__(self, descriptor: Any) -> None:
        self._descriptor = descriptor

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        kind = self._descriptor.annotation
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        if isinstance(kind, type) and isinstance(value, kind) and (kind is str or value is param.default):
            return value
        from typer._coercion import build_runtime_param

        return build_runtime_param(self._descriptor).coerce(value, param, ctx)


class _LazyCommands(Mapping[str, Any]):
    """The commands of a group: its names are known, and a command is made when it is looked up."""

    def __init__(self, places: Mapping[str, str]) -> None:
        self._places = places

    def __getitem__(self, name: str) -> Any:
        return _load(name, self._places[name])

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


@cache
def _load(name: str, place: str) -> Any:
    module, _, attribute = place.rpartition(".")
    made = getattr(import_module(f"paddock.cli.{module}"), attribute)
    if isinstance(made, typer.Typer):
        return typer.main.get_command(made)
    command = _make(name, made)
    if name in TIMED:
        command.params[-1:-1] = _make("timed", timed).params  # before `--json`, the last one
    return command


def _make(name: str, function: Callable[..., Any]) -> Any:
    alone = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    alone.command(name, cls=_LightCommand)(function)
    return typer.main.get_command(alone)


class TopCommands(CommandGroup):
    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = _LazyCommands(COMMANDS)  # type: ignore[assignment]  # nothing is added to it


class _CatalogCommands(CommandGroup):
    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = _LazyCommands(CATALOG_COMMANDS)  # type: ignore[assignment]  # nothing is added to it


catalog = typer.Typer(
    name="catalog",
    cls=_CatalogCommands,
    suggest_commands=False,
    help="Extend or check the catalog: the models that are wanted.",
    no_args_is_help=False,
    add_completion=False,
    rich_markup_mode=None,
)


@catalog.callback()
def _catalog_options(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    pass
