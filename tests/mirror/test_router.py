"""All streams of one relay: a hub between partners, its cursors, and what it tells."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest

from relay.app import check
from relay.config import RelayConfig, Site
from relay.mirror import link as links
from relay.mirror.cursors import Cursor, Cursors
from relay.mirror.house import House
from relay.mirror.link import State
from relay.mirror.router import Router
from relay.net.streams import STATUS, gauges, read_status
from relay.net.workers import CannotStart
from relay.nostr.messages import NegOpen, Publish
from relay.store.api import Seq
from tests.events import ALICE, BOB, CAROL, NOW, note, notes
from tests.mirror.houses import held, house_of, ids, keep, write_key
from tests.mirror.test_link import until, until_held
from tests.small_relay import SmallRelay


def configured(**streams: object) -> RelayConfig:
    return RelayConfig.model_validate({"router": streams})


def router_of(house: House, config: RelayConfig, data: Path) -> Router:
    return Router(house, config, dict.fromkeys(config.router), data)


@asynccontextmanager
async def running(router: Router) -> AsyncIterator[None]:
    """Run the router meanwhile, from when all its links are live."""
    task = asyncio.create_task(router.run())
    try:
        await until(lambda: all(link.health.state is State.LIVE for link in router.links) or task.done())
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()


def published(relay: SmallRelay) -> list[str]:
    return sorted(message.event.id for message in relay.heard if isinstance(message, Publish))


async def test_a_hub_passes_on_what_comes_from_one_partner_to_the_others_and_not_back(
    tmp_path: Path,
) -> None:
    house = house_of()
    old_one, old_other = notes(ALICE, 5), notes(BOB, 5)

    async with SmallRelay(old_one) as one, SmallRelay(old_other) as other:
        config = configured(hub={"urls": [one.url, other.url], "direction": "both"})
        async with running(router_of(house, config, tmp_path)):
            # What a comparison brought is not in the log; it gets there by another one.
            await until(lambda: ids(one.events) == ids(other.events) == ids([*old_one, *old_other]))
            await one.add(live := note(CAROL, "live"))
            await until(lambda: live.id in ids(other.events))
            await keep(house, [ours := note(CAROL, "ours")])
            await until(lambda: ours.id in ids(one.events) and ours.id in ids(other.events))

        assert published(one) == sorted(ids([*old_other, ours]))
        assert published(other) == sorted(ids([*old_one, live, ours]))
        assert await held(house) == ids(one.events) == ids(other.events)


async def test_cursors_survive_a_restart(tmp_path: Path) -> None:
    house = house_of()

    async with SmallRelay() as relay:
        config = configured(mirror={"urls": [relay.url], "direction": "both"})
        async with running(router_of(house, config, tmp_path)):
            await keep(house, [first := note(ALICE, "first")])
            await until(lambda: first.id in ids(relay.events))
        # Dated long before any overlap: only the log tells of it.
        await keep(house, [late := note(ALICE, "late", created_at=NOW - 10_000_000)])
        relay.heard.clear()

        async with running(router_of(house, config, tmp_path)):
            await until(lambda: late.id in ids(relay.events))

        assert published(relay) == [late.id]
        compared = [m.wanted.since for m in relay.heard if isinstance(m, NegOpen)]
        assert compared and None not in compared
        # For something else everything is compared.
        relay.heard.clear()
        filters = ['{"kinds":[1]}']
        config = configured(mirror={"urls": [relay.url], "direction": "both", "filters": filters})
        async with running(router_of(house, config, tmp_path)):
            pass
        assert next(m.wanted.since for m in relay.heard if isinstance(m, NegOpen)) is None


async def test_how_it_does_is_told_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.mirror.router.STATUS_SECONDS", 0.01)
    monkeypatch.setattr(links, "LOOK_SECONDS", 0.01)
    house = house_of()
    await keep(house, [note(ALICE), note(ALICE, "protected", tags=[["-"]])])

    def told(**wanted: object) -> Callable[[], bool]:
        def is_told() -> bool:
            status = orjson.loads((tmp_path / STATUS).read_bytes())
            return bool(wanted.items() <= status["links"][0].items())

        return is_told

    async with SmallRelay(notes(BOB, 3)) as relay:
        config = configured(mirror={"urls": [relay.url], "direction": "both"})
        async with running(router_of(house, config, tmp_path)):
            await until_held(house, ids(relay.events))
            await until(told(state="live", received=3, sent=1, withheld=1, lag_events=0, error=None))
            found = {(one.name, one.value) for one in gauges(tmp_path)}
            assert ("torv_router_received_total", 3.0) in found
            assert ("torv_router_connected", 1.0) in found
            await relay.stop()
            await until(told(connected=False, interruptions=1))
            await relay.start()
            await until(told(connected=True, error=None))

    assert read_status(tmp_path, 0.0) is None
    assert list(gauges(tmp_path)) == []


def test_a_status_that_is_old_or_damaged_tells_nothing(tmp_path: Path) -> None:
    assert read_status(tmp_path, 100.0) is None
    for text, told in (
        (b'{"written_at":100,"links":[]}', True),
        (b'{"written_at":50,"links":[]}', False),
        (b'{"written_at":100}', False),
        (b"{", False),
    ):
        (tmp_path / STATUS).write_bytes(text)
        assert (read_status(tmp_path, 100.0) is not None) is told


def test_cursors_are_kept_and_damage_means_to_begin_anew(tmp_path: Path) -> None:
    file = tmp_path / "cursors"
    cursors = Cursors(file)
    cursor = cursors.of("a", "up")
    cursor.sent, cursor.compared = Seq(7), NOW
    cursors.of("gone", "up").sent = Seq(1)
    cursors.keep(frozenset({"a"}))
    cursors.save()

    assert Cursors(file).of("a", "up") == Cursor("up", Seq(7), None, NOW)
    assert Cursors(file).of("gone", "up") == Cursor("up")
    assert Cursors(file).of("a", "both") == Cursor("both")
    for damage in (b"", b"{", b"[]", b'{"a":1}', b'{"a":{"asked":"up","sent":"x"}}'):
        file.write_bytes(damage)
        assert Cursors(file).of("a", "up") == Cursor("up")


def test_a_key_that_cannot_be_used_is_found_before_anything_starts(tmp_path: Path) -> None:
    config = configured(friends={"urls": ["wss://relay.example.com"], "key": str(tmp_path / "none.key")})

    with pytest.raises(CannotStart, match=r"cannot read .*none\.key: No such file"):
        check([Site("", tmp_path, config)])

    file = write_key(tmp_path, "friend")
    config = configured(friends={"urls": ["wss://relay.example.com"], "key": str(file)})
    check([Site("", tmp_path, config)])
