"""A group of commands that stand in modules of their own, imported only when they are asked for."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click


class LazyGroup(click.Group):
    """A group that knows where its commands stand: who runs one does not wait for the imports of all."""

    def __init__(self, *args: Any, parts: Mapping[str, str], **options: Any) -> None:
        """`parts`: names of commands and of groups of them, to `module:attribute`."""
        super().__init__(*args, **options)
        self._parts = parts

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self._parts})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._parts:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self._parts[cmd_name].partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command
