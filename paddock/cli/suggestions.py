"""Suggest what to type where a command or an option is mistyped."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from difflib import get_close_matches
from typing import Any

import typer
from typer.core import TyperGroup

OTHER_NAMES = {
    "add": "pull",
    "download": "pull",
    "fetch": "pull",
    "get": "pull",
    "install": "pull",
    "run": "serve",
    "start": "serve",
    "list": "ls",
    "models": "ls",
    "delete": "rm",
    "del": "rm",
    "remove": "rm",
    "uninstall": "rm",
    "info": "show",
    "describe": "show",
    "benchmark": "bench",
    "check": "verify",
    "scrub": "verify",
    "log": "history",
    "upload": "cache",
    "revert": "rollback",
    "undo": "rollback",
    "validate": "inspect",
    "audit": "inspect",
    "estimate": "plan",
}
"""Names of commands in other tools, and Paddock's command for the same."""


class UnknownCommand(typer.TyperException):
    """A command that does not exist. `cure` says what to type."""

    def __init__(self, message: str, cure: str) -> None:
        super().__init__(message)
        self.cure = cure


class LightHelp:
    """A mixin for commands: their `--help` has a value where it is not given, so that typer converts nothing, for which
    it would import pydantic."""

    def get_help_option(self, ctx: Any) -> Any:
        option = super().get_help_option(ctx)  # type: ignore[misc]  # of the command that this is mixed into
        if option is not None:
            option.default = False
        return option


class CommandGroup(LightHelp, TyperGroup):
    """A group of commands. It raises UnknownCommand, and takes `--json` before a command as after it."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        name, *rest = args
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            raise UnknownCommand(
                f"no such command: {name[:80]}", _suggest_command(_path(ctx), name, rest, self.commands)
            )
        name_, command, rest = super().resolve_command(ctx, args)
        return name_, command, ["--json", *rest] if ctx.params.get("as_json") else rest


def _suggest_command(path: Sequence[str], name: str, arguments: Sequence[str], commands: Collection[str]) -> str:
    """The command that was probably meant. `path` are the names of the groups that it is in; those of OTHER_NAMES are
    in none."""
    import shlex

    folded = name.casefold()
    others = {} if path else OTHER_NAMES
    close = [folded] if folded in commands else get_close_matches(folded, [*commands, *others], n=1)
    meant = others.get(folded) or (others.get(close[0], close[0]) if close else None)
    if meant is None:
        return f"see `{' '.join(['paddock', *path, '--help'])}`"
    return f"use `{shlex.join(['paddock', *path, meant, *arguments])}`"


def _path(context: Any) -> list[str]:
    """The names of a command and of the groups that it is in, without that of the program."""
    names: list[str] = []
    while context is not None and context.parent is not None:
        names.insert(0, context.info_name)
        context = context.parent
    return names


def cure_of(error: typer.TyperException) -> str:
    """The cure of an error of the command line: the command or option that was probably meant."""
    if isinstance(error, UnknownCommand):
        return error.cure
    context: Any = getattr(error, "ctx", None)
    command = " ".join(_path(context))
    option = getattr(error, "option_name", None)
    if command and option in {opt for param in context.parent.command.params for opt in param.opts}:
        return f"write it before the command: `paddock {option} {command}`"
    possible = sorted(getattr(error, "possibilities", None) or ())
    if possible:
        return f"use {' or '.join(possible)}"
    return f"see `paddock {command} --help`" if command else "see `paddock --help`"


def message_of(error: typer.TyperException) -> str:
    """The error in one sentence. Options to use instead belong to its cure."""
    return (error.message if getattr(error, "possibilities", None) else error.format_message()).rstrip(".")
