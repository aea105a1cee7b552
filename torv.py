"""The one command: `torv serve`, `torv relay …`, `torv bridge …`, `torv doctor`; above both packages."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click
from pydantic import Field, ValidationError, model_validator

from bridge.config import BridgeConfig
from relay import __version__
from relay.config import FurtherRelays, RelayConfig, Site, inherited, sites_of
from relay.logs import start_logging
from relay.settings import (
    RESTART,
    ConfigError,
    LazyGroup,
    Mistake,
    Settings,
    changes,
    config_option,
    example,
    load,
    variable,
)

if TYPE_CHECKING:
    from relay.net.handover import Inheritance

SHORT_NAMES = {
    "TORV_HOST": "relay.host",
    "TORV_PORT": "relay.port",
    "TORV_WORKERS": "relay.workers",
}


class TorvConfig(Settings):
    """The whole configuration."""

    relay: RelayConfig = RelayConfig()
    relays: FurtherRelays = Field({}, examples=["home"])
    bridge: BridgeConfig = Field(BridgeConfig(), json_schema_extra=RESTART)

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, values: object) -> object:
        """Give further relays what [relay] says and they do not."""
        match values:
            case {"relay": dict(shared), "relays": dict(further)} if isinstance(values, dict) and _is_right(
                shared
            ):
                own = {
                    name: inherited(shared, one) if isinstance(one, dict) else one
                    for name, one in further.items()
                }
                return values | {"relays": own}
        return values

    @property
    def sites(self) -> tuple[Site, ...]:
        """All relays, that of [relay] first."""
        return sites_of(self.data, self.relay, self.relays)


def _is_right(shared: dict[str, object]) -> bool:
    """Say whether [relay] has no mistake, which would be told of once more for each further relay."""
    try:
        RelayConfig.model_validate(shared)
    except ValidationError:
        return False
    return True


def load_config(file: Path | None, overrides: Mapping[str, object]) -> TorvConfig:
    """Read the configuration and begin to log as it says.

    `overrides` maps dotted settings to values; None overrides nothing. A wrong configuration ends
    the program with status 2 and a report of all that is wrong.
    """
    try:
        config = read_config(file, overrides)
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(2)
    start_logging(config.log)
    return config


def read_config(file: Path | None, overrides: Mapping[str, object]) -> TorvConfig:
    """Read the configuration; see `load_config`. Raises ConfigError."""
    config = load(
        TorvConfig,
        file=file,
        overrides=overrides,
        short_names=SHORT_NAMES,
        reserved=frozenset({"TORV_CONFIG"}),
    )
    _check_bridge_can_reach_relay(config)
    _check_relays_are_apart(config)
    return config


def _check_bridge_can_reach_relay(config: TorvConfig) -> None:
    if config.bridge.matrix and config.relay.port == 0 and "relay_url" not in config.bridge.model_fields_set:
        hint = "Give the relay a fixed port, or set bridge.relay_url."
        problem = "with a bridge, a port is needed that the bridge knows"
        raise ConfigError((Mistake("", "relay.port", problem, hint),))
    if config.bridge.matrix and config.relay.tls and "relay_url" not in config.bridge.model_fields_set:
        hint = "Set bridge.relay_url to the wss:// URL that the certificate is for."
        problem = "with a bridge, TLS takes a URL that the bridge knows"
        raise ConfigError((Mistake("", "relay.tls", problem, hint),))


def _check_relays_are_apart(config: TorvConfig) -> None:
    """Refuse two relays that one request could be for, or with one folder."""
    mistakes: list[Mistake] = []
    doors: dict[tuple[str, str], str] = {}
    folders: dict[Path, str] = {}
    for site in config.sites:
        table = f"relays.{site.name}" if site.name else "relay"
        for host in site.relay.hosts or ("",):
            other = doors.setdefault((host, site.relay.path), table)
            if other != table:
                where = f"{host}{site.relay.path}" if host else f"path {site.relay.path} of other hosts"
                problem = f"expected a door of its own, found that {other} answers at {where} too"
                mistakes.append(Mistake("", f"{table}.hosts", problem, "Give it hosts, or another path."))
        other = folders.setdefault(site.data.resolve(), table)
        if other != table:
            problem = f"expected a folder of its own, found that of {other}"
            mistakes.append(Mistake("", f"{table}.data", problem, "Nothing of two relays may be in one."))
    if mistakes:
        raise ConfigError(tuple(mistakes))


COMMANDS = {
    "relay": "relay.cli:relay",
    "bridge": "bridge.cli:bridge",
    "doctor": "relay.doctor.command:doctor",
}


@click.group(cls=LazyGroup, parts=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="torv")
@click.pass_context
def main(context: click.Context) -> None:
    """A public square that nobody owns: a Nostr relay, and a bridge to other networks."""
    context.obj = load_config


@main.command()
@config_option
@click.option("--host", help="The address to listen on [default: 127.0.0.1].")
@click.option("--port", type=int, help="The port to listen on; 0: a free one [default: 7777].")
@click.option("--data", type=click.Path(path_type=Path), help="The folder of databases [default: data].")
@click.option("--workers", type=int, help="Worker processes; 0: one per core [default: 0].")
@click.option("--check-config", is_flag=True, help="Only say whether the configuration is right.")
@click.option("--take-over-fd", type=int, hidden=True)
def serve(
    config: Path | None,
    host: str | None,
    port: int | None,
    data: Path | None,
    workers: int | None,
    check_config: bool,
    take_over_fd: int | None,
) -> None:
    """Run the relay, and the bridge if it is configured.

    Works without any configuration. A setting on the command line wins over the environment
    (TORV_RELAY__LIMITS__MAX_FILTERS=30), and that over the file.
    """
    overrides = {"data": data, "relay.host": host, "relay.port": port, "relay.workers": workers}
    if take_over_fd is not None:
        _take_over(config, overrides, take_over_fd)
    loaded = load_config(config, overrides)
    if check_config:
        _report(loaded)
        return
    from relay.net.workers import CannotStart

    try:
        sys.exit(_serve(loaded, config, overrides))
    except CannotStart as error:
        raise click.ClickException(str(error)) from error


def _take_over(config: Path | None, overrides: Mapping[str, object], fd: int) -> NoReturn:
    """Be the successor of the process at the other end of the line."""
    from relay.net.handover import Inheritance
    from relay.net.workers import CannotStart

    inheritance = Inheritance.read(fd)
    try:
        loaded = read_config(config, overrides)
        start_logging(loaded.log)
        sys.exit(_serve(loaded, config, overrides, inheritance))
    except (ConfigError, CannotStart) as error:
        # The other one logs it, and goes on.
        inheritance.say("failed", why=str(error))
        sys.exit(1)


def _serve(
    loaded: TorvConfig,
    config: Path | None,
    overrides: Mapping[str, object],
    inheritance: "Inheritance | None" = None,
) -> int:
    # Imported here: `--check-config` needs none of it.
    from relay.app import Wanted
    from relay.app import serve as serve_relays
    from relay.net.workers import CannotStart, Program

    extra = []
    if loaded.bridge.matrix:
        argv = [sys.executable, "-m", "torv", "bridge", "run"]
        if config:
            argv += ["--config", str(config)]
        extra.append(Program("bridge", argv, bridge_environment(loaded), says_ready=False))

    def wanted(read: TorvConfig) -> Wanted:
        first, *further = read.sites
        try:
            first = replace(first, relay=trusting_bridge(read))
        except click.ClickException as error:
            raise CannotStart(error.message) from error
        return Wanted((first, *further), read.log, read)

    return serve_relays(
        wanted(loaded),
        lambda: wanted(read_config(config, overrides)),
        extra,
        announce=click.echo,
        inheritance=inheritance,
    )


def _report(config: TorvConfig) -> None:
    changed = changes(config)
    click.echo(f"the configuration is right; {len(changed)} settings differ from their defaults")
    for path, value in changed.items():
        click.echo(f"  {path} = {value}")


def trusting_bridge(config: TorvConfig) -> RelayConfig:
    """Return the relay's settings, the key of its own bridge among those that limits pass by.

    All mirrored people come from one address, and a backlog is older than any window of time. Makes the
    data folder and the bridge's seed if they are missing.
    """
    if config.bridge.matrix is None:
        return config.relay
    from bridge.app import SEED_FILE
    from bridge.identities import SeedError, load_seed, service_key

    try:
        config.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        key = service_key(load_seed(config.data / SEED_FILE)).public
    except (SeedError, OSError) as error:
        raise click.ClickException(f"the bridge cannot start: {error}") from error
    return config.relay.model_copy(update={"trust_bridge_keys": (*config.relay.trust_bridge_keys, key)})


def bridge_environment(config: TorvConfig) -> dict[str, str]:
    """Return what the bridge's process has to know beside the file: what the command line changed."""
    environment = {variable("data"): str(config.data)}
    if "relay_url" not in config.bridge.model_fields_set:
        relay = config.relay
        # Who listens on all addresses is reached on its own.
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(relay.host, relay.host)
        host = f"[{host}]" if ":" in host else host
        environment[variable("bridge.relay_url")] = f"ws://{host}:{relay.port}{relay.path}"
    return environment


@main.command("example-config")
def example_config() -> None:
    """Print a configuration file with every setting, its default and its meaning."""
    click.echo(example(TorvConfig), nl=False)


if __name__ == "__main__":
    main()
