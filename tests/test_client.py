"""The Nostr client against a small relay, and against one that lies, stalls and hangs up."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from itertools import islice, repeat

import pytest
from websockets.asyncio.server import ServerConnection

from relay.client import (
    EndOfStored,
    Rejected,
    RelayClient,
    Unreachable,
    backoff,
    follow,
    reconnect,
)
from relay.nostr import kinds
from relay.nostr.event import Event, check_event
from relay.nostr.filter import Filter
from relay.nostr.messages import (
    Auth,
    Challenge,
    Close,
    Closed,
    Count,
    Delivered,
    Eose,
    Notice,
    Ok,
    Publish,
    Req,
)
from relay.nostr.reasons import Prefix
from tests.events import ALICE, BOB, NOW, Clock, event, note, notes
from tests.small_relay import SmallRelay, hear, say, serving

NOTE = note(ALICE, "hello")
EVERYTHING = [Filter()]


async def take(items: AsyncIterator[Event | EndOfStored], count: int) -> list[str | None]:
    """Return the contents of the next items; None for the end of the stored ones."""
    taken: list[str | None] = []
    async with asyncio.timeout(10):
        while len(taken) < count:
            item = await anext(items)
            taken.append(item.content if isinstance(item, Event) else None)
    return taken


async def until(condition: Callable[[], bool]) -> None:
    """Let others run until a condition holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # nothing announces it
            await asyncio.sleep(0)


def at_once() -> Iterator[float]:
    return repeat(0.0)


# Connecting.


@pytest.mark.parametrize(
    "url", ["", "relay.example", "http://relay.example", "ws://", "wss://relay.example/#x"]
)
def test_url_must_be_a_websocket_one(url: str) -> None:
    with pytest.raises(ValueError, match="isn't a valid URI"):
        RelayClient(url)


async def test_port_where_nobody_listens_is_unreachable() -> None:
    async with SmallRelay() as relay:
        url = relay.url

    with pytest.raises(Unreachable, match="Connect call failed") as error:
        async with RelayClient(url):
            pass

    assert error.value.url == url


async def test_server_that_never_answers_the_handshake_is_unreachable() -> None:
    hang_up = asyncio.Event()

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await hang_up.wait()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(Unreachable, match="timed out during opening handshake"):
            async with RelayClient(f"ws://127.0.0.1:{port}", connect_seconds=0.05):
                pass
        hang_up.set()


async def test_client_that_was_not_entered_is_unreachable() -> None:
    with pytest.raises(Unreachable, match="not connected"):
        await RelayClient("ws://127.0.0.1:1").publish(NOTE)


async def test_client_that_was_left_is_unreachable() -> None:
    async with SmallRelay() as relay:
        async with RelayClient(relay.url) as client:
            pass

        with pytest.raises(Unreachable, match="the connection was closed"):
            await client.count(EVERYTHING)


# Publishing.


async def test_accepted_event_is_kept_by_the_relay() -> None:
    async with SmallRelay() as relay, RelayClient(relay.url) as client:
        ok = await client.publish(NOTE)

    assert ok == Ok(NOTE.id, True, "")
    assert relay.events == [NOTE]


async def test_refused_event_raises_the_relays_reason() -> None:
    async def refuse(connection: ServerConnection) -> None:
        await hear(connection)
        await say(connection, Ok(NOTE.id, False, "rate-limited: slow down"))
        await connection.wait_closed()

    async with serving(refuse) as url, RelayClient(url) as client:
        with pytest.raises(Rejected) as error:
            await client.publish(NOTE)

    assert error.value.text == "rate-limited: slow down"
    assert error.value.prefix is Prefix.RATE_LIMITED
    assert error.value.is_temporary
    assert error.value.url == url
    assert str(error.value) == f"{url}: rate-limited: slow down"


@pytest.mark.parametrize(
    ("reason", "prefix", "is_temporary"),
    [
        ("error: disk full", Prefix.ERROR, True),
        ("blocked: no", Prefix.BLOCKED, False),
        ("no", None, False),
        ("", None, False),
    ],
)
def test_reason_says_whether_to_try_again(reason: str, prefix: Prefix | None, is_temporary: bool) -> None:
    error = Rejected("ws://relay.example", reason)

    assert (error.prefix, error.is_temporary) == (prefix, is_temporary)


async def test_events_published_at_once_get_each_its_own_answer() -> None:
    events = notes(ALICE, 20)

    async def answer_in_reverse(connection: ServerConnection) -> None:
        heard = [await hear(connection) for _ in events]
        for message in reversed(heard):
            assert isinstance(message, Publish)
            await say(connection, Ok(message.event.id, True, message.event.content))
        await connection.wait_closed()

    async with serving(answer_in_reverse) as url, RelayClient(url) as client:
        oks = await asyncio.gather(*map(client.publish, events))

    assert [ok.reason for ok in oks] == [f"note {n}" for n in range(20)]


async def test_same_event_published_twice_at_once_gets_two_answers() -> None:
    async with SmallRelay() as relay, RelayClient(relay.url) as client:
        oks = await asyncio.gather(client.publish(NOTE), client.publish(NOTE))

    assert [ok.accepted for ok in oks] == [True, True]


async def test_relay_that_does_not_answer_is_unreachable() -> None:
    async def deaf(connection: ServerConnection) -> None:
        await connection.wait_closed()

    async with serving(deaf) as url, RelayClient(url, answer_seconds=0.05) as client:
        with pytest.raises(Unreachable, match=r"no OK within 0\.05 s"):
            await client.publish(NOTE)
        with pytest.raises(Unreachable, match=r"no COUNT within 0\.05 s"):
            await client.count(EVERYTHING)
        with pytest.raises(Unreachable, match=r"no event or EOSE within 0\.05 s"):
            await client.fetch(EVERYTHING)


async def test_connection_lost_before_the_answer_is_unreachable() -> None:
    async def hang_up(connection: ServerConnection) -> None:
        await hear(connection)
        await connection.close(1012, "restarting")

    async with serving(hang_up) as url:
        questions: list[Callable[[RelayClient], Awaitable[object]]] = [
            lambda client: client.publish(NOTE),
            lambda client: client.count(EVERYTHING),
            lambda client: client.fetch(EVERYTHING),
        ]
        for ask in questions:
            async with RelayClient(url) as client:
                with pytest.raises(Unreachable, match="restarting"):
                    await ask(client)
                with pytest.raises(Unreachable, match="restarting"):
                    await ask(client)


async def test_late_answers_are_not_missed_by_the_next_question() -> None:
    """An OK that comes after its deadline belongs to the same event, sent again."""

    async def slow(connection: ServerConnection) -> None:
        first = await hear(connection)
        assert isinstance(first, Publish)
        await hear(connection)
        await say(connection, Ok(first.event.id, True, "late"))
        await connection.wait_closed()

    async with serving(slow) as url, RelayClient(url, answer_seconds=1) as client:
        with pytest.raises(Unreachable):
            await client.publish(NOTE)

        assert (await client.publish(NOTE)).reason == "late"


# Reading.


async def test_stored_events_come_first_then_live_ones() -> None:
    async with SmallRelay(notes(ALICE, 2, step=1)) as relay, RelayClient(relay.url) as client:
        items = client.subscribe(EVERYTHING)
        stored = await take(items, 3)
        await relay.add(note(BOB, "live"))
        live = await take(items, 1)
        await items.aclose()

    assert stored == ["note 1", "note 0", None]
    assert live == ["live"]


async def test_subscription_left_early_is_closed() -> None:
    async with SmallRelay([NOTE]) as relay, RelayClient(relay.url) as client:
        async with aclosing(client.subscribe(EVERYTHING)) as items:
            await take(items, 1)
        await relay.until_heard(Close)

        assert [list(requests) for requests in relay.connections.values()] == [[]]


async def test_subscriptions_do_not_mix() -> None:
    async with SmallRelay([note(ALICE, "a"), note(BOB, "b")]) as relay, RelayClient(relay.url) as client:
        one, other = await asyncio.gather(
            client.fetch([Filter(authors=frozenset({ALICE.public}))]),
            client.fetch([Filter(authors=frozenset({BOB.public}))]),
        )

    assert ([e.content for e in one], [e.content for e in other]) == (["a"], ["b"])


async def test_fetch_returns_what_is_stored_once() -> None:
    twice = [Filter(), Filter(kinds=frozenset({1}))]

    async with SmallRelay(notes(ALICE, 3, step=1)) as relay, RelayClient(relay.url) as client:
        found = await client.fetch(twice)

    assert [each.content for each in found] == ["note 2", "note 1", "note 0"]


async def test_fetch_stops_at_its_bound() -> None:
    async with SmallRelay(notes(ALICE, 9, step=1)) as relay, RelayClient(relay.url) as client:
        found = await client.fetch(EVERYTHING, most=4)
        await relay.until_heard(Close)

    assert [each.content for each in found] == ["note 8", "note 7", "note 6", "note 5"]


async def test_fetch_stops_when_it_holds_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.client.connection._MAX_FETCHED_BYTES", 2000)
    stored = [note(ALICE, "x" * 600, created_at=NOW + n) for n in range(5)]

    async with SmallRelay(stored) as relay, RelayClient(relay.url) as client:
        found = await client.fetch(EVERYTHING)

    assert [each.created_at - NOW for each in found] == [4, 3, 2]


async def test_count_is_the_relays() -> None:
    async with SmallRelay(notes(ALICE, 3)) as relay, RelayClient(relay.url) as client:
        assert await client.count(EVERYTHING) == 3


async def test_refused_question_raises_the_relays_reason() -> None:
    async with SmallRelay(challenge="c") as relay:
        relay.refusal = "restricted: not you"
        async with RelayClient(relay.url) as client:
            with pytest.raises(Rejected, match="restricted: not you"):
                await client.fetch(EVERYTHING)
            with pytest.raises(Rejected, match="restricted: not you"):
                await client.count(EVERYTHING)


async def test_subscription_that_the_relay_ends_raises_behind_its_events() -> None:
    async def end(connection: ServerConnection) -> None:
        request = await hear(connection)
        assert isinstance(request, Req)
        await say(connection, Eose(request.subscription))
        await say(connection, Delivered(request.subscription, NOTE))
        await say(connection, Closed(request.subscription, "error: too slow"))
        await say(connection, Delivered(request.subscription, note(BOB, "after the end")))
        await connection.wait_closed()

    async with serving(end) as url, RelayClient(url) as client:
        items = client.subscribe(EVERYTHING)
        assert await take(items, 2) == [None, "hello"]
        with pytest.raises(Rejected, match="error: too slow"):
            await take(items, 1)


async def test_live_subscription_ends_when_the_relay_restarts() -> None:
    async with SmallRelay() as relay, RelayClient(relay.url) as client:
        items = client.subscribe(EVERYTHING)
        await take(items, 1)
        await relay.stop()

        with pytest.raises(Unreachable, match="1012"):
            await take(items, 1)
        await relay.start()


async def test_second_end_of_stored_is_passed_over() -> None:
    async def repeat_itself(connection: ServerConnection) -> None:
        request = await hear(connection)
        assert isinstance(request, Req)
        for _ in range(3):
            await say(connection, Eose(request.subscription))
        await say(connection, Delivered(request.subscription, NOTE))
        await connection.wait_closed()

    async with serving(repeat_itself) as url, RelayClient(url) as client:
        items = client.subscribe(EVERYTHING)
        assert await take(items, 2) == [None, "hello"]
        await items.aclose()


async def test_what_breaks_the_protocol_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    forged = Event(NOTE.id, NOTE.pubkey, NOTE.created_at, NOTE.kind, (), "forged", NOTE.sig)
    unsigned = Event(NOTE.id, NOTE.pubkey, NOTE.created_at, NOTE.kind, (), NOTE.content, "0" * 128)

    async def lie(connection: ServerConnection) -> None:
        request = await hear(connection)
        assert isinstance(request, Req)
        name = request.subscription
        await connection.send("not JSON")
        await connection.send(b"\xff\xfe")
        await connection.send('["WHAT"]')
        await connection.send(f'["EVENT","{name}",{{"id":"shapeless"}}]')
        await say(connection, Notice("hello"))
        await say(connection, Ok("0" * 64, True, "never asked"))
        await say(connection, Eose("another"))
        await say(connection, Closed("another", "error: x"))
        await connection.send('["COUNT","another",{"count":1}]')
        await say(connection, Delivered("another", NOTE))
        await say(connection, Delivered(name, forged))
        await say(connection, Delivered(name, unsigned))
        await say(connection, Delivered(name, event(ALICE, 7, "not asked for")))
        await say(connection, Delivered(name, NOTE))
        await say(connection, Eose(name))
        await connection.wait_closed()

    async with serving(lie) as url, RelayClient(url) as client:
        found = await client.fetch([Filter(kinds=frozenset({kinds.NOTE}))])

    assert found == [NOTE]
    assert [record.levelname for record in caplog.records if record.name.startswith("relay.client")].count(
        "WARNING"
    ) == 1


async def test_message_over_the_bound_ends_the_connection() -> None:
    async with (
        SmallRelay([note(ALICE, "x" * 5000)]) as relay,
        RelayClient(relay.url, max_message_bytes=4096) as client,
    ):
        with pytest.raises(Unreachable, match="1009"):
            await client.fetch(EVERYTHING)


# Paging.


async def test_pages_bring_all_events_whatever_the_relays_cap() -> None:
    events = notes(ALICE, 4, created_at=NOW) + notes(BOB, 23, created_at=NOW - 40, step=1)

    async with SmallRelay(events, cap=5) as relay, RelayClient(relay.url) as client:
        found = [each async for each in client.page_back(Filter())]

    assert sorted(found, key=lambda each: each.id) == sorted(events, key=lambda each: each.id)
    assert [each.created_at for each in found] == sorted((each.created_at for each in events), reverse=True)


async def test_pages_stay_within_since_and_until() -> None:
    events = notes(ALICE, 20, step=1)

    async with SmallRelay(events, cap=3) as relay, RelayClient(relay.url) as client:
        wanted = Filter(since=NOW + 5, until=NOW + 12, limit=1)
        found = [each.created_at - NOW async for each in client.page_back(wanted)]

    assert found == [12, 11, 10, 9, 8, 7, 6, 5]


async def test_pages_pass_a_second_with_more_events_than_the_cap() -> None:
    events = notes(ALICE, 9, created_at=NOW) + notes(BOB, 2, created_at=NOW - 1)

    async with SmallRelay(events, cap=3) as relay, RelayClient(relay.url) as client:
        found = [each async for each in client.page_back(Filter())]

    assert [each.created_at - NOW for each in found] == [0, 0, 0, -1, -1]


async def test_pages_end_at_the_beginning_of_time() -> None:
    async with SmallRelay(notes(ALICE, 2, created_at=0)) as relay, RelayClient(relay.url) as client:
        assert len([each async for each in client.page_back(Filter())]) == 2

    asked = [message.filters[0].until for message in relay.heard if isinstance(message, Req)]
    assert asked == [None, 0]


@pytest.mark.parametrize(
    ("hints", "pages"),
    [(("finish",), 1), (("tomorrow's", "finish"), 1), (("more",), 3), ((), 3), (("Finish",), 3)],
)
async def test_pages_end_where_the_relay_says_that_this_was_all(hints: tuple[str, ...], pages: int) -> None:
    asked = []

    async def hint(connection: ServerConnection) -> None:
        while True:
            message = await hear(connection)
            if isinstance(message, Req):
                asked.append(message.filters[0].until)
                if message.filters[0].until in (None, NOW):
                    await say(connection, Delivered(message.subscription, NOTE))
                await say(connection, Eose(message.subscription, hints))

    async with serving(hint) as url, RelayClient(url) as client:
        assert [each async for each in client.page_back(Filter())] == [NOTE]

    assert asked == [None, NOW, NOW - 1][:pages]


async def test_page_size_is_asked_for() -> None:
    async with SmallRelay(notes(ALICE, 5, step=1)) as relay, RelayClient(relay.url) as client:
        assert len([each async for each in client.page_back(Filter(), page_events=2)]) == 5

    assert {message.filters[0].limit for message in relay.heard if isinstance(message, Req)} == {2}


# Authentication.


async def test_challenge_is_answered_by_a_signed_event() -> None:
    async with (
        SmallRelay(challenge="the challenge") as relay,
        RelayClient(relay.url, ALICE, clock=lambda: 1_700_000_000.9) as client,
    ):
        await client.authenticate()
        await client.authenticate()

    [auth] = [message.event for message in relay.heard if isinstance(message, Auth)]
    check_event(auth)
    assert auth.pubkey == ALICE.public
    assert auth.kind == 22242
    assert auth.created_at == 1_700_000_000
    assert auth.tags == (("relay", relay.url), ("challenge", "the challenge"))


async def test_refused_questions_are_asked_again_once_authenticated() -> None:
    async with SmallRelay([NOTE], challenge="c") as relay:
        relay.refusal = "auth-required: who are you?"
        async with RelayClient(relay.url, ALICE) as client:
            assert (await client.publish(note(ALICE, "new"))).accepted
        async with RelayClient(relay.url, ALICE) as client:
            assert await client.count(EVERYTHING) == 2
        async with RelayClient(relay.url, ALICE) as client:
            assert len(await client.fetch(EVERYTHING)) == 2


async def test_challenge_that_comes_with_the_refusal_is_answered() -> None:
    """Relays may keep their challenge until they need it (NIP-42)."""

    async def ask_late(connection: ServerConnection) -> None:
        for answer in (Eose, Ok, None):
            request = await hear(connection)
            match request:
                case Req(name):
                    await say(connection, Closed(name, "auth-required: sign in"))
                case Publish(published):
                    await say(connection, Ok(published.id, False, "auth-required: sign in"))
                case Count(name):
                    await say(connection, Closed(name, "auth-required: sign in"))
            await say(connection, Challenge(f"challenge {answer}"))
            auth = await hear(connection)
            assert isinstance(auth, Auth)
            await say(connection, Ok(auth.event.id, True, ""))
            request = await hear(connection)
            match request:
                case Req(name):
                    await say(connection, Eose(name))
                    await hear(connection)
                case Publish(published):
                    await say(connection, Ok(published.id, True, "welcome"))
                case Count(name):
                    await connection.send(f'["COUNT","{name}",{{"count":5}}]')
        await connection.wait_closed()

    async with serving(ask_late) as url:
        async with RelayClient(url, ALICE) as client:
            assert await client.fetch(EVERYTHING) == []
        async with RelayClient(url, ALICE) as client:
            assert (await client.publish(NOTE)).reason == "welcome"
        async with RelayClient(url, ALICE) as client:
            assert await client.count(EVERYTHING) == 5


async def test_question_waits_for_the_authentication_under_way() -> None:
    """Otherwise a relay would veil what the key may see."""
    heard: list[str] = []

    async def slow_to_judge(connection: ServerConnection) -> None:
        request = await hear(connection)
        assert isinstance(request, Req)
        await say(connection, Challenge("c"))
        await say(connection, Eose(request.subscription))
        auth = await hear(connection)
        assert isinstance(auth, Auth)
        while not isinstance(message := await hear(connection), Publish):
            heard.append(type(message).__name__)
        heard.append("judged")
        await say(connection, Ok(auth.event.id, True, ""))
        await say(connection, Ok(message.event.id, True, ""))
        request = await hear(connection)
        assert isinstance(request, Count)
        heard.append("Count")
        await connection.send(f'["COUNT","{request.subscription}",{{"count":5}}]')
        await connection.wait_closed()

    async with serving(slow_to_judge) as url, RelayClient(url, ALICE) as client:
        await client.fetch(EVERYTHING)
        counted, _ = await asyncio.gather(client.count(EVERYTHING), client.publish(NOTE))

    assert counted == 5
    assert heard == ["Close", "judged", "Count"]


async def test_second_refusal_after_authentication_is_final() -> None:
    async def never_content(connection: ServerConnection) -> None:
        await say(connection, Challenge("c"))
        while True:
            message = await hear(connection)
            match message:
                case Auth(auth):
                    await say(connection, Ok(auth.id, True, ""))
                case Publish(published):
                    await say(connection, Ok(published.id, False, "auth-required: another key"))
                case Req(name) | Count(name):
                    await say(connection, Closed(name, "auth-required: another key"))

    async with serving(never_content) as url, RelayClient(url, ALICE) as client:
        for ask in (client.publish(NOTE), client.fetch(EVERYTHING), client.count(EVERYTHING)):
            with pytest.raises(Rejected, match="auth-required: another key"):
                await ask


async def test_refused_authentication_is_raised() -> None:
    async with SmallRelay(challenge="c") as relay:
        relay.refusal = "auth-required: who are you?"
        relay.auth_answer = (False, "restricted: not a member")
        async with RelayClient(relay.url, ALICE) as client:
            for ask in (client.authenticate(), client.publish(NOTE), client.fetch(EVERYTHING)):
                with pytest.raises(Rejected, match="restricted: not a member"):
                    await ask


async def test_client_without_a_key_does_not_authenticate() -> None:
    async with SmallRelay(challenge="c") as relay:
        relay.refusal = "auth-required: who are you?"
        async with RelayClient(relay.url) as client:
            with pytest.raises(Rejected, match="auth-required: who"):
                await client.publish(NOTE)
            with pytest.raises(Rejected, match="auth-required: who"):
                await client.fetch(EVERYTHING)
            with pytest.raises(Rejected, match="auth-required: who"):
                await client.count(EVERYTHING)
            with pytest.raises(Rejected, match="auth-required: there is no key"):
                await client.authenticate()

    assert not any(isinstance(message, Auth) for message in relay.heard)


async def test_relay_without_challenge_leaves_authentication_unreachable() -> None:
    async with SmallRelay() as relay, RelayClient(relay.url, ALICE, answer_seconds=0.05) as client:
        with pytest.raises(Unreachable, match=r"no challenge within 0\.05 s"):
            await client.authenticate()


async def test_connection_lost_before_the_challenge_is_unreachable() -> None:
    async def hang_up(connection: ServerConnection) -> None:
        await connection.close(1012)

    async with serving(hang_up) as url, RelayClient(url, ALICE) as client:
        with pytest.raises(Unreachable, match="1012"):
            await client.authenticate()


async def test_connection_lost_during_authentication_is_unreachable() -> None:
    async def hang_up(connection: ServerConnection) -> None:
        await say(connection, Challenge("c"))
        await hear(connection)
        await connection.close(1012)

    async with serving(hang_up) as url, RelayClient(url, ALICE) as client:
        with pytest.raises(Unreachable, match="1012"):
            await client.authenticate()


async def test_new_challenge_replaces_the_old_one() -> None:
    async def change_its_mind(connection: ServerConnection) -> None:
        await say(connection, Challenge("first"))
        await hear(connection)
        await say(connection, Challenge("first"))
        await say(connection, Challenge("second"))
        auth = await hear(connection)
        assert isinstance(auth, Auth)
        await say(connection, Ok(auth.event.id, True, ""))
        publish = await hear(connection)
        assert isinstance(publish, Publish)
        await say(connection, Ok(publish.event.id, True, auth.event.tags[1][1]))
        await connection.wait_closed()

    async with serving(change_its_mind) as url, RelayClient(url, ALICE) as client:
        await client.authenticate()

        assert (await client.publish(NOTE)).reason == "second"


# A slow consumer.


async def test_slow_consumer_stops_the_reading_and_loses_nothing() -> None:
    # 24 MB: more than the client may hold, and than the sockets between hold beside it.
    big = [note(ALICE, f"{n}" + "x" * 200_000) for n in range(120)]
    sent = 0

    async def flood(connection: ServerConnection) -> None:
        nonlocal sent
        request = await hear(connection)
        assert isinstance(request, Req)
        await say(connection, Eose(request.subscription))
        for each in big:
            await say(connection, Delivered(request.subscription, each))
            sent += 1
        await connection.wait_closed()

    async with serving(flood) as url, RelayClient(url) as client:
        items = client.subscribe(EVERYTHING)
        await take(items, 1)
        await until(lambda: client.held_bytes >= 2**20)
        for _ in range(100):
            await asyncio.sleep(0)
        held = client.held_bytes
        sent_while_slow = sent
        received = await take(items, len(big))
        await items.aclose()

    assert held < 2**20 + 201_000
    assert sent_while_slow < len(big)
    assert received == [each.content for each in big]


async def test_answer_behind_the_events_of_a_slow_consumer_is_read() -> None:
    big = [note(ALICE, f"{n}" + "x" * 200_000) for n in range(20)]

    async def flood(connection: ServerConnection) -> None:
        request = await hear(connection)
        assert isinstance(request, Req)
        await say(connection, Eose(request.subscription))
        for each in big:
            await say(connection, Delivered(request.subscription, each))
        publish = await hear(connection)
        assert isinstance(publish, Publish)
        await say(connection, Ok(publish.event.id, True, ""))
        await connection.wait_closed()

    async with serving(flood) as url, RelayClient(url) as client:
        items = client.subscribe(EVERYTHING)
        await take(items, 1)
        assert (await client.publish(NOTE)).accepted
        assert await take(items, 20) == [each.content for each in big]
        await items.aclose()


async def test_consumer_too_far_behind_is_cut_off_behind_what_it_has() -> None:
    big = [note(ALICE, f"{n}" + "x" * 200_000) for n in range(60)]

    async def flood(connection: ServerConnection) -> None:
        request = await hear(connection)
        assert isinstance(request, Req)
        await say(connection, Eose(request.subscription))
        publish = await hear(connection)
        assert isinstance(publish, Publish)
        for each in big:
            await say(connection, Delivered(request.subscription, each))
        await say(connection, Ok(publish.event.id, True, ""))
        close = await hear(connection)
        assert close == Close(request.subscription)
        await connection.close(4000, "as expected")

    async with serving(flood) as url, RelayClient(url) as client:
        items = client.subscribe(EVERYTHING)
        await take(items, 1)
        await client.publish(NOTE)

        # 8 MiB of 200 kB each.
        assert await take(items, 42) == [each.content for each in big[:42]]
        with pytest.raises(Unreachable, match="a subscription fell too far behind"):
            await take(items, 1)
        with pytest.raises(Unreachable, match="as expected"):
            await client.fetch(EVERYTHING)


async def test_relay_that_reads_no_more_is_unreachable() -> None:
    async def read_nothing(connection: ServerConnection) -> None:
        await connection.wait_closed()

    big = [note(ALICE, f"{n}" + "x" * 200_000) for n in range(60)]

    async with (
        asyncio.timeout(10),
        serving(read_nothing) as url,
        RelayClient(url, answer_seconds=0.2) as client,
    ):
        outcomes = await asyncio.gather(*map(client.publish, big), return_exceptions=True)

    assert {type(outcome) for outcome in outcomes} == {Unreachable}


@asynccontextmanager
async def lost_unnoticed() -> AsyncIterator[tuple[RelayClient, AsyncGenerator[Event | EndOfStored, None]]]:
    """Yield a client with a full subscription, and the subscription.

    Behind what the client has read, a challenge waits, and then the end of the connection.
    """
    big = [note(ALICE, f"{n}" + "x" * 200_000) for n in range(6)]
    gone = asyncio.Event()

    async def flood_and_close(connection: ServerConnection) -> None:
        request = await hear(connection)
        assert isinstance(request, Req)
        await say(connection, Eose(request.subscription))
        for each in big:
            await say(connection, Delivered(request.subscription, each))
        await say(connection, Challenge("c"))
        await connection.close(4000, "enough")
        gone.set()

    async with serving(flood_and_close) as url, RelayClient(url, ALICE) as client:
        items = client.subscribe(EVERYTHING)
        await take(items, 1)
        await asyncio.wait_for(gone.wait(), 10)
        await until(lambda: client.held_bytes >= 2**20)
        yield client, items


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.publish(NOTE),
        lambda client: client.fetch(EVERYTHING),
        lambda client: client.count(EVERYTHING),
        lambda client: client.authenticate(),
    ],
    ids=["publish", "fetch", "count", "authenticate"],
)
async def test_loss_behind_a_full_subscription_is_found_by_the_next_question(
    ask: Callable[[RelayClient], Awaitable[object]],
) -> None:
    async with lost_unnoticed() as (client, items):
        with pytest.raises(Unreachable, match="enough"):
            await ask(client)

        assert len(await take(items, 6)) == 6
        with pytest.raises(Unreachable, match="enough"):
            await take(items, 1)


async def test_subscription_of_a_lost_connection_can_be_left() -> None:
    async with lost_unnoticed() as (client, items):
        await items.aclose()

        with pytest.raises(Unreachable, match="enough"):
            await client.publish(NOTE)


# Coming back.


def test_pauses_double_up_to_a_bound() -> None:
    assert list(islice(backoff(first=1, most=5, chance=lambda: 0.0), 5)) == [1, 2, 4, 5, 5]


def test_pauses_are_shortened_by_chance() -> None:
    assert list(islice(backoff(first=1, most=4, chance=lambda: 1.0), 4)) == [0.5, 1, 2, 2]


async def test_next_client_is_a_new_connection() -> None:
    async with SmallRelay() as relay:
        clients = reconnect(lambda: RelayClient(relay.url), pauses=at_once)
        first = await anext(clients)
        await relay.stop()
        await relay.start()
        with pytest.raises(Unreachable):
            await first.publish(NOTE)
        second = await anext(clients)
        await second.publish(NOTE)
        await clients.aclose()

    assert relay.events == [NOTE]


async def test_pauses_begin_anew_after_a_steady_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = 0

    def coming() -> Iterator[float]:
        nonlocal begun
        begun += 1
        yield from repeat(0.0)

    async with SmallRelay() as relay:
        clients = reconnect(lambda: RelayClient(relay.url), pauses=coming)
        await anext(clients)
        await anext(clients)
        assert begun == 1

        monkeypatch.setattr("relay.client.following._STEADY_SECONDS", 0.0)
        await anext(clients)
        assert begun == 2
        await clients.aclose()


async def test_reconnecting_tries_until_the_relay_is_there() -> None:
    async with SmallRelay() as relay:
        await relay.stop()
        pauses = 0

        def coming() -> Iterator[float]:
            nonlocal pauses
            while True:
                pauses += 1
                yield 0.0

        async with aclosing(reconnect(lambda: RelayClient(relay.url), pauses=coming)) as clients:
            waiting = asyncio.ensure_future(anext(clients))
            await until(lambda: pauses >= 3)
            await relay.start()
            client = await waiting
            assert await client.count(EVERYTHING) == 0


async def test_follower_has_every_event_once_over_a_restart() -> None:
    stored = notes(ALICE, 12, step=1)

    async with SmallRelay(stored, cap=5) as relay:
        following = follow(lambda: RelayClient(relay.url), EVERYTHING, since=NOW, pauses=at_once)
        async with aclosing(following) as items:
            caught_up = await take(items, 13)
            await relay.add(note(BOB, "live", created_at=NOW + 20))
            live = await take(items, 1)
            await relay.stop()
            relay.events += [note(BOB, f"missed {n}", created_at=NOW + 30 + n) for n in range(8)]
            await relay.start()
            again = await take(items, 9)

    assert caught_up == [f"note {n}" for n in reversed(range(12))] + [None]
    assert live == ["live"]
    assert again == [f"missed {n}" for n in reversed(range(8))] + [None]


async def test_follower_resumes_at_the_newest_event_less_the_overlap(clock: Clock) -> None:
    stored = [
        note(ALICE, "stored", created_at=NOW + 1000),
        note(ALICE, "from the future", created_at=NOW + 9000),
    ]

    async with SmallRelay(stored) as relay:
        clock.advance(2000)
        following = follow(
            lambda: RelayClient(relay.url),
            [Filter(since=NOW - 7), Filter(since=NOW + 9500, limit=3)],
            since=NOW,
            overlap_seconds=100,
            pauses=at_once,
            clock=clock,
        )
        async with aclosing(following) as items:
            await take(items, 3)
            await relay.stop()
            await relay.start()
            await take(items, 1)
            clock.advance(1000)
            await relay.add(note(BOB, "live", created_at=NOW + 2500))
            await relay.add(note(BOB, "late", created_at=NOW + 1950))
            await take(items, 2)
            await relay.stop()
            await relay.start()
            await take(items, 1)

    live = [
        message.filters for message in relay.heard if isinstance(message, Req) and len(message.filters) == 2
    ]
    assert [(first.since, second.since) for first, second in live] == [
        (NOW, NOW + 9500),
        (NOW + 1900, NOW + 9500),
        (NOW + 2400, NOW + 9500),
    ]
    assert {(first.limit, second.limit) for first, second in live} == {(1, 1)}


async def test_follower_interrupted_while_catching_up_begins_again() -> None:
    events = notes(ALICE, 4, step=1)
    asked: list[int | None] = []

    async def fail_on_the_first_page(connection: ServerConnection) -> None:
        live = await hear(connection)
        assert isinstance(live, Req)
        asked.append(live.filters[0].since)
        await say(connection, Delivered(live.subscription, events[3]))
        await say(connection, Eose(live.subscription))
        page = await hear(connection)
        assert isinstance(page, Req)
        if len(asked) == 1:
            await say(connection, Delivered(page.subscription, events[2]))
            await connection.close(1011)
            return
        for each in reversed(events):
            await say(connection, Delivered(page.subscription, each))
        await say(connection, Eose(page.subscription))
        while True:
            message = await hear(connection)
            if isinstance(message, Req):
                await say(connection, Eose(message.subscription))

    async with serving(fail_on_the_first_page) as url:
        following = follow(lambda: RelayClient(url), EVERYTHING, since=NOW, pauses=at_once)
        async with aclosing(following) as items:
            got = await take(items, 5)

    assert asked == [NOW, NOW]
    assert got == ["note 3", "note 2", "note 1", "note 0", None]


async def test_follower_comes_back_after_a_passing_refusal() -> None:
    refusals = iter(["rate-limited: slow down", "error: too slow"])

    async def refuse_twice(connection: ServerConnection) -> None:
        while True:
            message = await hear(connection)
            if isinstance(message, Req):
                reason = next(refusals, None)
                await say(
                    connection,
                    Eose(message.subscription) if reason is None else Closed(message.subscription, reason),
                )

    async with serving(refuse_twice) as url:
        following = follow(lambda: RelayClient(url), EVERYTHING, since=NOW, pauses=at_once)
        async with aclosing(following) as items:
            assert await take(items, 1) == [None]


async def test_follower_gives_up_on_a_lasting_refusal() -> None:
    async with SmallRelay(challenge="c") as relay:
        relay.refusal = "restricted: members only"
        with pytest.raises(Rejected, match="restricted: members only"):
            await take(follow(lambda: RelayClient(relay.url), EVERYTHING, since=NOW), 1)


async def test_follower_forgets_old_ids_but_not_recent_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.client.following._REMEMBERED_IDS", 2)
    first, second, third = notes(ALICE, 3, step=1)

    async with SmallRelay() as relay:
        following = follow(lambda: RelayClient(relay.url), EVERYTHING, since=NOW, pauses=at_once)
        async with aclosing(following) as items:
            await take(items, 1)
            for each in (first, second, second, third, first):
                await relay.add(each)

            assert await take(items, 4) == ["note 0", "note 1", "note 2", "note 0"]


async def test_cancelled_follower_closes_its_connection() -> None:
    async with SmallRelay([NOTE]) as relay:
        caught_up = asyncio.Event()

        async def consume() -> None:
            async with aclosing(follow(lambda: RelayClient(relay.url), EVERYTHING, since=NOW)) as items:
                async for item in items:
                    if isinstance(item, EndOfStored):
                        caught_up.set()

        consumer = asyncio.ensure_future(consume())
        await asyncio.wait_for(caught_up.wait(), 10)
        [connection] = relay.connections
        consumer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await consumer
        await asyncio.wait_for(connection.wait_closed(), 10)

    assert connection.close_code == 1000
