"""`torv doctor`: the command."""

import asyncio
import sys
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import click
import orjson
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from relay.client import Unreachable
from relay.config import RelayConfig
from relay.doctor.examination import Diagnosis, examine
from relay.doctor.outcome import Verdict
from relay.doctor.probes.probe import Probe
from relay.doctor.report import as_json, show
from relay.nostr.keys import SecretKey
from relay.nostr.nip19 import secret_key
from relay.nostr.urls import normalize
from relay.settings import Loader, config_option

_FAILED, _USAGE = 1, 2


class Configuration(Protocol):
    """What this command needs of the whole configuration."""

    @property
    def relay(self) -> RelayConfig: ...


@click.command()
@click.argument("url", required=False)
@config_option
@click.option(
    "--key",
    "key_file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="A file (mode 0600) with a secret key, nsec or hex, that the relay allows more than strangers.",
)
@click.option(
    "--nip", "nips", type=int, multiple=True, help="Examine only this NIP; may be given several times."
)
@click.option("--strict", is_flag=True, help="Count what could not be proved as failed.")
@click.option("--json", "is_json", is_flag=True, help="Print the findings as JSON.")
@click.pass_context
def doctor(
    context: click.Context,
    url: str | None,
    config: Path | None,
    key_file: Path | None,
    nips: tuple[int, ...],
    strict: bool,
    is_json: bool,
) -> None:
    """Ask a running relay for proof of every NIP that it advertises.

    URL is any relay's, such as wss://relay.example.com; without it, the configured relay is examined. The
    probes use keys made for them, and delete what they publish.

    Ends with status 0 if nothing failed, 1 if something did, 2 if the relay could not be reached.
    """
    if url is None:
        loader: Loader[Configuration] = context.obj
        url = url_of(loader(config, {}).relay)
    normal = normalize(url)
    if normal is None:
        raise click.UsageError(f"{url!r} is no URL of a relay, which begins with ws:// or wss://")
    key = None if key_file is None else read_key(key_file)
    try:
        diagnosis = asyncio.run(_examine(normal, key, nips, is_quiet=is_json))
    except Unreachable as error:
        click.echo(f"the relay cannot be reached: {error}", err=True)
        sys.exit(_USAGE)
    if is_json:
        click.echo(orjson.dumps(as_json(diagnosis), option=orjson.OPT_INDENT_2))
    else:
        show(diagnosis, Console())
    if diagnosis.number(Verdict.FAILED) or (strict and diagnosis.number(Verdict.SKIPPED)):
        sys.exit(_FAILED)


def url_of(config: RelayConfig) -> str:
    """Return the URL under which clients reach the configured relay: the public one, if it has one."""
    if config.url:
        return config.url
    # Who listens on all addresses is reached on its own.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.host, config.host)
    scheme = "ws" if config.tls is None else "wss"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{config.port}{config.path}"


def read_key(path: Path) -> SecretKey:
    """Read a secret key that nobody else can read. Raises click.UsageError."""
    try:
        if path.stat().st_mode & 0o077:
            raise click.UsageError(f"{path} can be read by others; run: chmod 600 {path}")
        return secret_key(path.read_text().strip())
    except OSError as error:
        raise click.UsageError(f"cannot read {path}: {error.strerror}") from error
    except ValueError:
        raise click.UsageError(f"{path} does not hold a secret key (nsec1… or 64 hex digits)") from None


async def _examine(url: str, key: SecretKey | None, nips: tuple[int, ...], *, is_quiet: bool) -> Diagnosis:
    console = Console(stderr=True)
    with Progress(
        TextColumn("examining {task.fields[host]}"),
        BarColumn(),
        TextColumn("{task.fields[what]}"),
        console=console,
        transient=True,
        disable=is_quiet or not console.is_terminal,
    ) as progress:
        task = progress.add_task("examining", total=None, host=urlsplit(url).hostname, what="")

        def on_probe(probe: Probe, done: int, total: int) -> None:
            progress.update(task, completed=done, total=total, what=f"NIP-{probe.nip:02} {probe.claim}")

        return await examine(url, key=key, only=nips, on_probe=on_probe)
