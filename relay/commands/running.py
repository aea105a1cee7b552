"""`torv relay reload|restart`: what the running relay is told to do."""

import sys
from pathlib import Path
from typing import Any

import click
import orjson

from relay.commands.opening import folder_option, load_for
from relay.commands.results import Failed, ends_with, json_option
from relay.net.control import CONTROL_SOCKET, NobodyAnswers, give_order
from relay.settings import config_option

RELOAD_SECONDS = 120.0
"""Longer than all processes may take."""
RESTART_SECONDS = 300.0


@ends_with("the configuration holds now", "no relay runs, or a part of it had to be started anew")
@click.command("reload")
@config_option
@folder_option
@json_option
@click.pass_context
def reload(context: click.Context, config: Path | None, data: Path | None, as_json: bool) -> None:
    """Have the running relay read its configuration again, as SIGHUP does.

    It reads the file that it was started with; what its own command line and environment say still wins. No
    connection and no subscription is dropped. Says what holds now, and what takes a restart.
    With a mistake in the configuration, the one before still holds.
    """
    told = _ask(load_for(context, config, data).data, "reload", RELOAD_SECONDS)
    if as_json:
        click.echo(orjson.dumps(told))
    elif not told["mistakes"]:
        changed = told["changed"]
        click.echo(f"{len(changed)} settings changed" if changed else "nothing has changed")
        for path in changed:
            click.echo(f"  {path}")
        for path in told["restart"]:
            click.echo(f"  {path} takes a restart: torv relay restart")
    if told["mistakes"]:
        click.echo(f"{told['mistakes']}\nthe relay goes on as before", err=True)
        sys.exit(2)
    for why in told["failed"]:
        click.echo(f"started anew: {why}", err=True)
    sys.exit(1 if told["failed"] else 0)


@ends_with("the new program serves", "it does not, and the old one goes on; or none runs")
@click.command("restart")
@config_option
@folder_option
@json_option
@click.pass_context
def restart(context: click.Context, config: Path | None, data: Path | None, as_json: bool) -> None:
    """Have the program, as it is installed and configured now, take the running one's place.

    No connection is refused meanwhile and nothing that was answered with OK is lost. Clients of the old
    workers are told to connect anew, over `relay.timeouts.restart_seconds`.
    If the new program cannot start, the old one goes on.
    """
    told = _ask(load_for(context, config, data).data, "restart", RESTART_SECONDS)
    if as_json:
        click.echo(orjson.dumps(told))
    elif not told["why"]:
        click.echo("the new program serves")
    if told["why"]:
        click.echo(f"{told['why']}\nthe relay goes on as before", err=True)
        sys.exit(1)


def _ask(data: Path, order: str, seconds: float) -> Any:
    try:
        return give_order(data / CONTROL_SOCKET, order, seconds=seconds)
    except NobodyAnswers as error:
        raise Failed(str(error)) from error
