"""How commands end, and what they print: lines for people, or one JSON object for programs."""

from collections.abc import Callable, Iterable, Mapping

import click
import orjson

USAGE = "wrong use or configuration"
"""What exit status 2 means for every command."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")


def ends_with(zero: str, one: str) -> Callable[[click.Command], click.Command]:
    """Say in a command's help what its exit statuses mean; stands above `@click.command`.

    docs/operating/commands.md lists them for all commands, held to by a test.
    """

    def tell(command: click.Command) -> click.Command:
        command.epilog = f"Exit status: 0 {zero}; 1 {one}; 2 {USAGE}."
        return command

    return tell


class Failed(click.ClickException):
    """What was asked for could not be done: exit status 1, the reason on standard error.

    Where the command was to print JSON, it prints an object with `error`.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        context = click.get_current_context(silent=True)
        self._as_json = context is not None and bool(context.params.get("as_json"))

    def show(self, file: object = None) -> None:
        super().show()
        if self._as_json:
            _print({"error": self.message})


def print_result(as_json: bool, result: Mapping[str, object], lines: Iterable[str]) -> None:
    """Print what came out, in the one form or the other."""
    if as_json:
        _print(result)
        return
    for line in lines:
        click.echo(line)


def _print(value: Mapping[str, object]) -> None:
    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS).decode())
