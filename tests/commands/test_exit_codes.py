"""Every command of `torv relay` says how it ends, prints JSON if asked to, and is in the docs' table."""

import re
from pathlib import Path

import click
import pytest

from relay.cli import COMMANDS, relay

TABLE = Path(__file__).parent.parent.parent / "docs/operating/commands.md"
ROWS = {
    command: (zero, one)
    for command, zero, one in re.findall(
        r"^\| `torv relay ([a-z-]+)` \| ([^|]+) \| ([^|]+) \|$", TABLE.read_text(), re.MULTILINE
    )
}


def command_named(name: str) -> click.Command:
    found = relay.get_command(click.Context(relay), name)
    assert found is not None
    return found


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_table_says_what_the_commands_help_says(name: str) -> None:
    zero, one = ROWS[name]

    assert command_named(name).epilog == f"Exit status: 0 {zero}; 1 {one}; 2 wrong use or configuration."


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_prints_json_if_asked_to(name: str) -> None:
    assert "--json" in {option for parameter in command_named(name).params for option in parameter.opts}


def test_the_table_is_sorted_and_names_no_other_commands() -> None:
    assert list(ROWS) == sorted(COMMANDS)
