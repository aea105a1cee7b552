"""Polls over the wire: counted by any worker, read over HTTP, watched, and audited from the command line."""

import asyncio
import subprocess
import sys
import time
from typing import Any
from urllib.request import urlopen

import orjson

from relay.client import RelayClient
from relay.nostr import polls
from relay.nostr.event import Event
from relay.nostr.filter import Filter
from relay.nostr.polls import Result
from tests.events import author, event
from tests.serving import ROOT, Served

ASKING, MALLORY = author("asks in public"), author("signs what is wrong")
VOTERS = [author(f"public voter {n}") for n in range(5)]


def poll(question: str, now: int) -> Event:
    tags = [["option", "tea", "Tea"], ["option", "milk", "Milk"], ["endsAt", str(now + 600)]]
    return event(ASKING, 1068, question, created_at=now, tags=tags)


def votes(asked: Event, now: int) -> list[Event]:
    return [
        event(key, 1018, created_at=now, tags=[["e", asked.id], ["response", ("tea", "milk")[n % 2]]])
        for n, key in enumerate(VOTERS)
    ]


def page(relay: Served, asked: Event) -> dict[str, Any]:
    with urlopen(f"{relay.http}/api/poll/{asked.id}", timeout=20) as answer:
        document: dict[str, Any] = orjson.loads(answer.read())
    return document


async def test_a_poll_is_counted_read_and_watched(relay: Served) -> None:
    now = int(time.time())
    asked = poll("read and watched?", now)
    watched = Filter(kinds=frozenset([21_068]), tags={"e": frozenset([asked.id])}, limit=0)
    async with (
        RelayClient(relay.url) as watcher,
        RelayClient(relay.url) as one,
        RelayClient(relay.url) as other,
    ):
        heard = watcher.subscribe([watched])
        assert not isinstance(await anext(heard), Event)
        for n, published in enumerate([asked, *votes(asked, now)]):
            assert (await (one, other)[n % 2].publish(published)).accepted

        shown = await asyncio.to_thread(page, relay, asked)
        assert [(option["id"], option["votes"]) for option in shown["options"]] == [("tea", 3), ("milk", 2)]
        assert shown["question"] == "read and watched?"

        told: set[int] = set()
        while 5 not in told:
            latest = await anext(heard)
            assert isinstance(latest, Event)
            told.add(polls.parse_tally(latest)[1])
        await heard.aclose()


def audit(relay: Served, id_: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "torv", "relay", "audit-poll", id_, "--relay", relay.url]
    ended = subprocess.run(command, capture_output=True, cwd=ROOT, timeout=60, check=False)
    return ended.returncode, (ended.stdout + ended.stderr).decode()


async def test_a_tally_is_audited_from_the_command_line(relay: Served) -> None:
    now = int(time.time())
    right, wrong, unsigned = (poll(question, now) for question in ("right?", "wrong?", "unsigned?"))
    async with RelayClient(relay.url) as client:
        for asked in (right, wrong, unsigned):
            cast = votes(asked, now)
            for published in (asked, *cast):
                assert (await client.publish(published)).accepted
            result = polls.count(polls.parse_poll(asked), cast)
            if asked is wrong:
                result = Result((4, 1), result.voters, result.fingerprint)
            tags = [["d", asked.id], *polls.tally_tags(asked.id, ("tea", "milk"), result)]
            if asked is not unsigned:
                assert (await client.publish(event(MALLORY, 31_068, created_at=now, tags=tags))).accepted

    assert audit(relay, right.id) == (0, "the tally agrees with the votes\n")
    assert audit(relay, wrong.id) == (
        1,
        "4 votes were told for tea, 3 were found\n1 votes were told for milk, 2 were found\n",
    )
    assert audit(relay, unsigned.id) == (1, f"Error: {relay.url} has no tally of that poll\n")
