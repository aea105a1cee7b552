"""`torv relay …`: commands for who runs the relay, each in a file of `relay/commands/`."""

import click

from relay.settings import LazyGroup

COMMANDS = {
    "audit-poll": "relay.commands.auditing:audit_poll",
    "backup": "relay.commands.backing_up:backup",
    "compact": "relay.commands.upkeep:compact",
    "delete": "relay.commands.removing:delete",
    "dry-run": "relay.commands.judging:dry_run",
    "export": "relay.commands.exporting:export",
    "healthcheck": "relay.commands.watching:healthcheck",
    "import": "relay.commands.importing:import_",
    "kick": "relay.commands.watching:kick",
    "migrate": "relay.commands.upkeep:migrate",
    "reload": "relay.commands.running:reload",
    "restart": "relay.commands.running:restart",
    "restore": "relay.commands.restoring:restore",
    "retention": "relay.commands.removing:retention",
    "router": "relay.commands.routing:router",
    "stats": "relay.commands.upkeep:stats",
    "sync": "relay.commands.syncing:sync",
    "top": "relay.commands.watching:top",
    "verify": "relay.commands.verifying:verify",
    "why": "relay.commands.judging:why",
}


@click.group(cls=LazyGroup, parts=COMMANDS)
def relay() -> None:
    """Look after the relay's events."""
