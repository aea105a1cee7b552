"""`torv relay audit-poll`: a signed tally against the votes (NIP-88)."""

import asyncio
import sys

import click

from relay.commands.results import Failed, ends_with, json_option, print_result
from relay.nostr import kinds, nip19, polls
from relay.nostr.filter import Filter
from relay.nostr.tags import HEX_64


@ends_with("the tally agrees with the votes", "it differs, or could not be audited")
@click.command("audit-poll")
@click.argument("poll")
@click.option(
    "--relay", "url", required=True, help="The relay whose signed tally is audited: ws:// or wss://."
)
@click.option("--votes", "source", help="Count the votes that this relay has [default: the same one's].")
@json_option
def audit_poll(poll: str, url: str, source: str | None, as_json: bool) -> None:
    """Count the votes of POLL anew, and compare them with the tally that a relay signed at its end.

    POLL is 64 hex digits, note1… or nevent1….
    """
    from relay.client import RelayFailure

    try:
        differences = asyncio.run(_audit_poll(_event_id(poll), url, source or url))
    except (RelayFailure, ValueError) as error:
        raise Failed(str(error)) from error
    result = {"agrees": not differences, "differences": differences}
    print_result(as_json, result, differences or ["the tally agrees with the votes"])
    sys.exit(1 if differences else 0)


def _event_id(text: str) -> str:
    if HEX_64(text):
        return text
    try:
        entity = nip19.decode(text)
    except nip19.InvalidEntity as error:
        raise click.BadParameter(str(error), param_hint="POLL") from error
    if not isinstance(entity, nip19.Note | nip19.Nevent):
        raise click.BadParameter("this names no event", param_hint="POLL")
    return entity.id


async def _audit_poll(id_: str, url: str, source: str) -> list[str]:
    from relay.client import RelayClient

    async with RelayClient(url) as client:
        polls_found = await client.fetch([Filter(ids=frozenset([id_]), kinds=frozenset([kinds.POLL]))])
        wanted = Filter(kinds=frozenset([kinds.TALLY]), tags={"d": frozenset([id_])})
        tallies = await client.fetch([wanted])
    if not polls_found or not tallies:
        missing = "tally of that poll" if polls_found else "such poll"
        raise Failed(f"{url} has no {missing}")
    if len({tally.pubkey for tally in tallies}) > 1:
        click.echo(f"several keys signed tallies; this is {tallies[0].pubkey}'s", err=True)
    # Only votes that may count; and of these all, whatever the relay sends at a time.
    poll = polls.parse_poll(polls_found[0])
    cast = Filter(kinds=frozenset([kinds.VOTE]), tags={"e": frozenset([id_])}, until=poll.ends_at)
    async with RelayClient(source) as client:
        votes = [vote async for vote in client.page_back(cast)]
    return polls.audit(poll, votes, tallies[0])
