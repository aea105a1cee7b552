"""`torv relay reload|restart`: what the running relay is told to do."""

import sys
from pathlib import Path
from typing import Any

import click
import orjson

from relay.commands.opening import folder_option, load_for
from relay.net.control import CONTROL_SOCKET, NobodyAnswers, give_order
from relay.settings import config_option

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")

RELOAD_SECONDS = 120.0
"""Longer than all processes may take."""
RESTART_SECONDS = 300.0


@click.command("reload")
@config_option
@folder_option
@json_option
@click.pass_context
def reload(context: click.Context, config: Path | None, data: Path | None, as_json: bool) -> None:
    """Have the running relay read its configuration again, as SIGHUP does.

    It reads the file that it was started with; what its own command line and environment say still wins.
    No connection and no subscription is dropped. Says what holds now, and what takes a restart.

    Ends with 0 if the configuration holds now; with 2 if it has a mistake, and the one before still holds;
    with 1 if no relay runs, or a part of it had to be started anew.
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


@click.command("restart")
@config_option
@folder_option
@json_option
@click.pass_context
def restart(context: click.Context, config: Path | None, data: Path | None, as_json: bool) -> None:
    """Have the program, as it is installed and configured now, take the running one's place.

    No connection is refused meanwhile and nothing that was answered with OK is lost. Clients of the old
    workers are told to connect anew, over `relay.timeouts.restart_seconds`.

    Ends with 0 if the new program serves; with 1 if it could not start, and the old one goes on, or if none
    runs.
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
        raise click.ClickException(str(error)) from error
