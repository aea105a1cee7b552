"""Events that the operator removes: by a filter, and by rules; in a stopped relay, and while it serves."""

import asyncio
import json
from itertools import count
from pathlib import Path
from urllib.request import urlopen

import pytest

from relay.client import Rejected, RelayClient
from relay.nostr import kinds
from relay.nostr.filter import Filter
from tests.commands.conftest import POLL, Torv, fill
from tests.events import ALICE, NOW, author, note
from tests.serving import UNLIMITED, TorvServe

TOPIC = json.dumps({"kinds": [1], "#t": ["topic 3"]})


def test_by_itself_it_only_says_what_would_go(torv: Torv, data: Path) -> None:
    told = torv("delete", "--data", data, "--filter", TOPIC, "--json")

    assert told.status == 0
    assert {name: told.value[name] for name in ("removed", "events", "kinds")} == {
        "removed": False,
        "events": 29,
        "kinds": {"1": 29},
    }
    assert len(told.value["examples"]) == 3
    assert "29 events" in torv("delete", "--data", data, "--filter", TOPIC).output
    assert torv("verify", data, "--json").value["events"] == 217


def test_what_was_removed_stays_out_unless_it_may_return(torv: Torv, data: Path, tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    assert torv("export", "--data", data, "-o", lines).status == 0
    like = json.dumps({"#t": ["topic 4"]})

    assert torv("delete", "--data", data, "--filter", TOPIC, "--yes", "--json").value["events"] == 29
    assert torv("delete", "--data", data, "--filter", like, "--yes", "--may-return").status == 0
    imported = torv("import", lines, "--data", data, "--json").value

    assert imported["deleted"] == 29
    assert imported["stored"] == 28
    assert torv("delete", "--data", data, "--filter", TOPIC, "--json").value["events"] == 0
    assert torv("verify", data).status == 0


def test_several_filters_remove_what_any_of_them_matches(torv: Torv, data: Path) -> None:
    both = ("--filter", TOPIC, "--filter", json.dumps({"kinds": [1, 0]}))

    assert torv("delete", "--data", data, *both, "--json").value["kinds"] == {"0": 1, "1": 201}


@pytest.mark.parametrize(
    "given", ["{}", "nonsense", '{"kinds": ["x"]}', '{"search": "word"}', '{"limit": 9}']
)
def test_a_filter_that_cannot_be_meant_is_wrong_use(given: str, torv: Torv, data: Path) -> None:
    assert torv("delete", "--data", data, "--filter", given, "--yes").status == 2
    assert torv("verify", data, "--json").value["events"] == 217


async def test_a_running_relay_forgets_what_is_removed(torv: Torv, torv_serve: TorvServe) -> None:
    relay = torv_serve()
    spam = [note(author("spam"), f"buy {n}", tags=[["t", "spam"]]) for n in range(300)]
    async with RelayClient(relay.url) as client:
        for one in (*spam[:50], note(ALICE, "kept")):
            await client.publish(one)
        gone = await asyncio.to_thread(
            torv, "delete", "--data", relay.data, "--filter", '{"#t": ["spam"]}', "--yes", "--json"
        )

        assert gone.value["events"] == 50
        assert await client.count([Filter(tags={"t": frozenset(["spam"])})]) == 0
        assert await client.fetch([Filter(ids=frozenset([spam[0].id]))]) == []
        with pytest.raises(Rejected, match="this event was deleted"):
            await client.publish(spam[0])
        await client.publish(spam[60])


def test_a_poll_is_counted_without_the_votes_that_were_removed(
    torv: Torv, data: Path, torv_serve: TorvServe, tmp_path: Path
) -> None:
    relay = torv_serve(workers=1)
    lines = tmp_path / "lines"
    assert torv("export", "--data", data, "-o", lines).status == 0
    assert torv("import", lines, "--data", relay.data).status == 0

    def voters() -> int:
        with urlopen(f"{relay.http}/api/poll/{POLL.id}") as page:
            return int(json.load(page)["voters"])

    assert voters() == 2
    vote = json.dumps({"kinds": [kinds.VOTE], "authors": [ALICE.public]})
    assert torv("delete", "--data", relay.data, "--filter", vote, "--yes").status == 0

    assert voters() == 1


RULES = """
[relay.retention.notes]
kinds = [1]
max_events = 30
"""


def test_rules_are_explained_and_then_carried_out(torv: Torv, data: Path, tmp_path: Path) -> None:
    config = tmp_path / "torv.toml"
    config.write_text(RULES)
    options = ("--data", data, "--config", config)

    planned = torv("retention", *options, "--dry-run", "--json").value
    told = torv("retention", *options, "--dry-run").output
    done = torv("retention", *options, "--json").value

    assert (planned["removed"], planned["rules"]["notes"]["events"]) == (False, 171)
    assert told.startswith("notes: 171 events, about ")
    assert done == {"removed": True, "rules": {"notes": {"events": 171}}}
    assert torv("retention", *options).output == "notes: 0 events removed\n"
    verified = torv("verify", data, "--json")
    assert (verified.status, verified.value["events"]) == (0, 217 - 171)


def test_without_rules_it_is_wrong_use(torv: Torv, data: Path) -> None:
    assert torv("retention", "--data", data).status == 2


async def test_a_running_relay_keeps_to_its_rules_and_its_file_shrinks(torv_serve: TorvServe) -> None:
    relay = torv_serve(UNLIMITED + RULES)
    assert relay.stop() == 0
    long = "x" * 60_000
    await fill(relay.data, [note(ALICE, f"{n} {long}", created_at=NOW + n) for n in range(300)])
    database = relay.data / "torv.sqlite3"
    before = database.stat().st_size

    relay.restart()

    meanwhile = (note(ALICE, f"meanwhile {n}", created_at=NOW - n) for n in count())
    async with asyncio.timeout(90), RelayClient(relay.url) as client:
        while database.stat().st_size > 6 * 2**20:
            await client.publish(next(meanwhile))
            assert len(await client.fetch([Filter(kinds=frozenset([1]), limit=20)])) == 20
    assert before > 17 * 2**20
    assert relay.stop() == 0


async def test_a_relay_that_is_killed_while_it_removes_goes_on_where_it_was(
    torv: Torv, torv_serve: TorvServe
) -> None:
    relay = torv_serve(UNLIMITED + RULES, workers=1)
    assert relay.stop() == 0
    await fill(relay.data, [note(ALICE, f"{n}", created_at=NOW + n) for n in range(700)])
    every = Filter(kinds=frozenset([1]))
    relay.restart()

    async with RelayClient(relay.url) as client:
        while await client.count([every]) == 700:
            pass
    relay.kill()
    verified = await asyncio.to_thread(torv, "verify", relay.data, "--json")
    assert (verified.status, verified.value["findings"]) == (0, [])
    assert verified.value["events"] >= 30

    relay.restart()
    async with asyncio.timeout(60), RelayClient(relay.url) as client:
        while await client.count([every]) > 30:
            pass
        newest = await client.fetch([Filter(kinds=frozenset([1]), limit=1)])
    assert newest[0].content == "699"
    assert relay.stop() == 0
    assert (await asyncio.to_thread(torv, "verify", relay.data)).status == 0
