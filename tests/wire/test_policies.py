"""Policies on a real relay with several workers: limits hold for the machine, lists change under way."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import orjson
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.serving import Served, TorvServe
from tests.test_cli import torv
from tests.wire.client import Refused, dial, new_key, note

DEADLINE_SECONDS = 30
OFF = "[relay.limits]\nevents_per_minute = 0\nrequests_per_minute = 0\nconnections_per_address = 0\n"


async def test_an_authors_rate_holds_over_all_workers_together(torv_serve: TorvServe) -> None:
    served = torv_serve(f'{OFF}[relay.policies.rates]\nevents_per_key = ["1=6/hour"]\n', workers=2)
    author = new_key()
    answers = []

    for number in range(12):
        async with dial(served.url) as wire:
            answers.append(await wire.publish(note(author, str(number))))

    assert [accepted for accepted, _ in answers] == [True] * 6 + [False] * 6
    assert {reason for _, reason in answers[6:]} == {
        "rate-limited: at most 6 an hour from one author of events of kind 1"
    }


async def test_rates_of_addresses_and_proved_keys_hold_over_all_workers_together(
    torv_serve: TorvServe,
) -> None:
    served = torv_serve(
        f"{OFF}[relay.policies.rates]\n"
        'events_per_authenticated_key = ["*=3/hour"]\nrequests_per_address = "5/hour"\n',
        workers=2,
    )
    key = new_key()
    answers, asked = [], 0

    async with AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(dial(served.url)) for _ in range(6)]
        for wire in wires:
            await wire.authenticate(key)
            answers.append(await wire.publish(note(new_key())))
        for wire in wires:
            try:
                await wire.query({"limit": 1})
                asked += 1
            except Refused as error:
                assert str(error) == "rate-limited: at most 5 an hour from one address of requests"

    assert [accepted for accepted, _ in answers] == [True] * 3 + [False] * 3
    assert asked == 5


async def test_budgets_hold_over_all_workers_together(torv_serve: TorvServe) -> None:
    served = torv_serve(f"{OFF}[relay.policies.budget]\nrows_per_minute = 5\n", workers=2)
    author = new_key()
    async with AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(dial(served.url)) for _ in range(8)]
        for number in range(2):
            await wires[0].publish(note(author, str(number)))
        answered = 0
        for wire in wires:
            try:
                answered += len(await wire.query({"authors": [author.public]}))
            except Refused as error:
                assert str(error) == "rate-limited: one address gets 5 a minute of events in answers"

    # The third question was asked when something was left.
    assert answered == 6


async def test_a_list_that_changes_counts_in_every_worker(torv_serve: TorvServe, tmp_path: Path) -> None:
    file = tmp_path / "denied.txt"
    file.write_text("")
    served = torv_serve(f'{OFF}[relay.policies.lists]\ndeny_keys_files = ["{file}"]\n', workers=2)
    author = new_key()
    async with AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(dial(served.url)) for _ in range(8)]
        assert await wires[0].publish(note(author, "before")) == (True, "")

        file.write_text(f"{author.public}\n")

        async with asyncio.timeout(DEADLINE_SECONDS):
            for wire in wires:
                while (await wire.publish(note(author, "after")))[0]:
                    pass


async def test_clients_of_a_denied_address_are_sent_away(torv_serve: TorvServe) -> None:
    served = torv_serve(f'{OFF}[relay.policies.lists]\ndeny_addresses = ["127.0.0.0/8"]\n', workers=1)

    with pytest.raises(InvalidStatus) as refused:
        async with connect(served.url):
            pass

    assert refused.value.response.status_code == 403


async def test_why_answers_beside_a_running_relay(torv_serve: TorvServe) -> None:
    served = torv_serve(f"{OFF}[relay.policies.lists]\ndeny_kinds = [7]\n", workers=1)
    published = note(new_key(), "hello")
    async with dial(served.url) as wire:
        await wire.publish(published)

    assert told(served, {"kind": 7})["reason"] == "blocked: kind 7 is not taken here"
    known = told(served, published._asdict())
    assert (known["taken"], known["stored"]) == (True, True)


def told(served: Served, given: object) -> dict[str, object]:
    config = served.data.parent / "torv.toml"
    answer = torv(
        "relay", "why", "-", "--json", "--config", config, "--data", served.data, given=orjson.dumps(given)
    )
    value: dict[str, object] = orjson.loads(answer.stdout)
    return value
