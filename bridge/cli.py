"""`torv bridge …`: commands for who runs the bridge. Output for people goes to standard error."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import click

from bridge import app
from bridge.config import BridgeConfig
from bridge.identities import SeedError, load_seed, service_key
from bridge.ledger import LedgerError
from bridge.networks.matrix.registration import registration as registration_text
from bridge.networks.matrix.registration import tokens
from bridge.networks.matrix.settings import MatrixConfig
from relay.nostr import nip19
from relay.nostr.event import PubKey
from relay.settings import config_option


class Configuration(Protocol):
    """What the bridge needs of the whole configuration."""

    @property
    def data(self) -> Path: ...
    @property
    def bridge(self) -> BridgeConfig: ...


class Load(Protocol):
    """How the program above reads its configuration: the object of the click context."""

    def __call__(self, file: Path | None, overrides: Mapping[str, object]) -> Configuration: ...


def _load(context: click.Context, file: Path | None) -> tuple[Configuration, MatrixConfig]:
    load: Load = context.obj
    configuration = load(file, {})
    if configuration.bridge.matrix is None:
        click.echo("the configuration has no table [bridge.matrix]: there is nothing to bridge", err=True)
        sys.exit(2)
    return configuration, configuration.bridge.matrix


@click.group()
def bridge() -> None:
    """Look after the bridge to other networks."""


@bridge.command()
@config_option
@click.pass_context
def run(context: click.Context, config: Path | None) -> None:
    """Run the bridge alone; `torv serve` runs it beside the relay."""
    configuration, _ = _load(context, config)
    try:
        app.run(configuration.data, configuration.bridge)
    except (app.BridgeError, SeedError, LedgerError) as error:
        click.echo(f"the bridge cannot start: {error}", err=True)
        sys.exit(1)


@bridge.command()
@config_option
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="Where to write it [default: stdout]."
)
@click.pass_context
def registration(context: click.Context, config: Path | None, output: Path | None) -> None:
    """Write the appservice registration that the Matrix homeserver needs.

    It holds the tokens of both sides; the file is made readable by its owner only.
    """
    configuration, matrix = _load(context, config)
    try:
        text = registration_text(tokens(load_seed(configuration.data / app.SEED_FILE), matrix), matrix)
        if output is None:
            click.echo(text, nl=False)
            return
        _write_secret(output, text)
    except (SeedError, OSError) as error:
        click.echo(f"the registration cannot be written: {error}", err=True)
        sys.exit(1)
    click.echo(f"wrote {output}; name it in the homeserver's app_service_config_files", err=True)


def _write_secret(path: Path, text: str) -> None:
    aside = path.with_name(f"{path.name}.new")
    aside.unlink(missing_ok=True)
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    aside.replace(path)


@bridge.command()
@config_option
@click.pass_context
def key(context: click.Context, config: Path | None) -> None:
    """Print the public key with which the bridge authenticates to its relay.

    The relay's `trust_bridge_keys` may name it.
    """
    configuration, _ = _load(context, config)
    try:
        seed = load_seed(configuration.data / app.SEED_FILE)
    except SeedError as error:
        click.echo(str(error), err=True)
        sys.exit(1)
    click.echo(nip19.encode(nip19.Npub(PubKey(service_key(seed).public))))
