"""Whatever a client sends, it gets its answer, and nobody else notices."""

from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.nostr.event import Event
from tests.events import ALICE, BOB, NOW, Clock, event, note
from tests.net.house import House

# What rules, veils and effects look at, and what looks like it.
words = st.sampled_from(
    [
        "", "-", "e", "a", "p", "d", "k", "expiration", "relay", "challenge", "x",
        "a" * 64, "A" * 64, ALICE.public, BOB.public, note(ALICE).id,
        f"0:{ALICE.public}:", f"30023:{ALICE.public}:x:y", f"5:{ALICE.public}:", "::", "1:", ":" * 9,
        str(NOW), str(NOW + 5), "-1", "9" * 400, "٣", "1e9", "ws://relay.test", "ws://[", "http://\u2100",
    ]
) | st.text(max_size=5)  # fmt: skip
tags = st.lists(st.lists(words, max_size=3), max_size=5)
kinds = st.sampled_from([0, 1, 3, 4, 5, 6, 13, 16, 1059, 10_002, 20_001, 21_059, 22_242, 30_023, 65_535])
contents = st.text(max_size=20) | st.builds(
    lambda value: orjson.dumps(value).decode(),
    st.recursive(words, lambda inner: st.lists(inner) | st.dictionaries(words, inner), max_leaves=8),
)
times = st.sampled_from([0, 1, NOW - 1, NOW, NOW + 900, NOW + 901, 2**32 - 1])
events = st.builds(
    lambda key, kind, content, created_at, tags: event(key, kind, content, created_at=created_at, tags=tags),
    st.sampled_from([ALICE, BOB]),
    kinds,
    contents,
    times,
    tags,
)
json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=12,
)
filters = st.dictionaries(
    st.sampled_from(
        ["ids", "authors", "kinds", "#e", "#p", "#d", "#x", "since", "until", "limit", "search", "&t", "#"]
    ),
    st.lists(words | kinds, max_size=3) | times | json,
    max_size=4,
)
messages = st.one_of(
    st.lists(json, max_size=4).map(orjson.dumps),
    st.tuples(st.sampled_from(["EVENT", "AUTH", "CLOSE", "REQ", "COUNT", "NEG-OPEN"]), json).map(
        orjson.dumps
    ),
    st.tuples(st.sampled_from(["REQ", "COUNT"]), words, filters, filters).map(orjson.dumps),
    st.binary(max_size=40).filter(lambda data: _is_text(data)),
)


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


@settings(max_examples=60)
@given(
    published=st.lists(events, max_size=12),
    proofs=st.lists(events, max_size=3),
    asked=st.lists(filters, max_size=5),
)
async def test_every_signed_event_gets_one_ok_and_every_question_an_end(
    published: list[Event], proofs: list[Event], asked: list[dict[str, Any]]
) -> None:
    async with House(Clock()) as house:
        client, bystander = await house.connect(), await house.connect()
        await bystander.subscribe("s", {"kinds": [1]})

        for proof in proofs:
            assert (await client.authenticate_with(proof))[0] is False
        for one in published:
            accepted, reason = await client.publish(one)
            assert accepted or ": " in reason
        for wanted in asked:
            assert (await client.request("REQ", "q", wanted))[-1][0] in ("EOSE", "CLOSED")
            assert (await client.request("COUNT", "q", wanted))[-1][0] in ("COUNT", "CLOSED")

        await client.publish(note(BOB, "the end"))
        assert (await bystander.live())[-1] == ("s", "the end")


@settings(max_examples=100)
@given(said=st.lists(messages, max_size=8))
async def test_no_text_message_ends_a_connection(said: list[bytes]) -> None:
    async with House(Clock()) as house:
        client = await house.connect()

        for text in said:
            client.send_text(text)

        assert all(
            answer[0] in ("OK", "EOSE", "CLOSED", "NOTICE", "COUNT", "NEG-MSG", "NEG-ERR")
            for answer in await client.heard()
        )
        assert await client.publish(note(ALICE)) == (True, "")
        assert client.wire.closed is None
