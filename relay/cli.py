"""`torv relay …`: commands for who runs the relay, each in a file of `relay/commands/`."""

import click

from relay.settings import LazyGroup

COMMANDS = {
    "audit-poll": "relay.commands.auditing:audit_poll",
    "export": "relay.commands.exporting:export",
    "import": "relay.commands.importing:import_",
}


@click.group(cls=LazyGroup, parts=COMMANDS)
def relay() -> None:
    """Look after the relay's events."""
