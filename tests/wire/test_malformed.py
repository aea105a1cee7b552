"""Every malformed message gets OK false, CLOSED or NOTICE with a prefix, and the connection goes on."""

import re
from typing import Any

import orjson
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from relay.nostr.event import Event, encode
from tests.serving import Served
from tests.wire.client import Refused, Wire, dial, new_key, note

GOOD = orjson.loads(encode(note(new_key(), "good", age=60)))
ID = GOOD["id"]
OFF_CURVE = "ff" * 32
TOO_BIG = {CloseCode.MESSAGE_TOO_BIG, CloseCode.ABNORMAL_CLOSURE}
"""The code that is sent, or none where TCP resets, because some of the message was still on its way."""


def event(**changes: Any) -> str:
    """Return an EVENT message whose event is right but for these fields; None leaves one out."""
    fields = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
    return orjson.dumps(["EVENT", fields]).decode()


def raw_event(**changes: str) -> str:
    """As `event`, with fields given as JSON text that no encoder would write."""
    fields = {name: orjson.dumps(value).decode() for name, value in GOOD.items()} | changes
    return '["EVENT",{' + ",".join(f'"{name}":{text}' for name, text in fields.items()) + "}]"


MALFORMED = {
    # What the message is → the text sent, the start of the answer, and the prefix of its reason.
    "empty": ("", ["NOTICE"], "invalid"),
    "not JSON": ("hello", ["NOTICE"], "invalid"),
    "half of JSON": ('["REQ","a",{', ["NOTICE"], "invalid"),
    "two values": ('["CLOSE","a"]["CLOSE","a"]', ["NOTICE"], "invalid"),
    "an object": ("{}", ["NOTICE"], "invalid"),
    "a number": ("1", ["NOTICE"], "invalid"),
    "an empty array": ("[]", ["NOTICE"], "invalid"),
    "a number for a verb": ("[1]", ["NOTICE"], "invalid"),
    "an unknown verb": ('["PUBLISH",{}]', ["NOTICE"], "unsupported"),
    "a verb in lower case": ('["req","a",{}]', ["NOTICE"], "unsupported"),
    "deep nesting": ("[" * 100_000, ["NOTICE"], "invalid"),
    "deep nesting, closed": ("[" * 50_000 + "]" * 50_000, ["NOTICE"], "invalid"),
    "a deep verb": ('["REQ","a",' + '{"a":' * 20_000 + "1" + "}" * 20_000 + "]", ["NOTICE"], "invalid"),
    "NaN": ('["REQ","a",{"limit":NaN}]', ["NOTICE"], "invalid"),
    "Infinity": ('["REQ","a",{"limit":Infinity}]', ["NOTICE"], "invalid"),
    "a lone surrogate": (raw_event(content='"\\ud800"'), ["NOTICE"], "invalid"),
    # EVENT
    "EVENT alone": ('["EVENT"]', ["NOTICE"], "invalid"),
    "EVENT of a string": ('["EVENT","x"]', ["NOTICE"], "invalid"),
    "EVENT of nothing": ('["EVENT",{}]', ["NOTICE"], "invalid"),
    "EVENT with an odd id": ('["EVENT",{"id":"x"}]', ["OK", "x", False], "invalid"),
    "two events": (orjson.dumps(["EVENT", GOOD, GOOD]).decode(), ["OK", ID, False], "invalid"),
    "no pubkey": (event(pubkey=None), ["OK", ID, False], "invalid"),
    "no created_at": (event(created_at=None), ["OK", ID, False], "invalid"),
    "no kind": (event(kind=None), ["OK", ID, False], "invalid"),
    "no tags": (event(tags=None), ["OK", ID, False], "invalid"),
    "no content": (event(content=None), ["OK", ID, False], "invalid"),
    "no sig": (event(sig=None), ["OK", ID, False], "invalid"),
    "id in upper case": (event(id=ID.upper()), ["OK", ID.upper(), False], "invalid"),
    "pubkey in upper case": (event(pubkey="AB" * 32), ["OK", ID, False], "invalid"),
    "pubkey with a space": (event(pubkey="a " * 32), ["OK", ID, False], "invalid"),
    "pubkey off the curve": (event(pubkey=OFF_CURVE), ["OK", ID, False], "invalid"),
    "sig too short": (event(sig="ab"), ["OK", ID, False], "invalid"),
    "kind true": (event(kind=True), ["OK", ID, False], "invalid"),
    "kind 1.0": (raw_event(kind="1.0"), ["OK", ID, False], "invalid"),
    "kind as text": (event(kind="1"), ["OK", ID, False], "invalid"),
    "kind -1": (event(kind=-1), ["OK", ID, False], "invalid"),
    "kind 65536": (event(kind=65_536), ["OK", ID, False], "invalid"),
    "created_at 1e9": (raw_event(created_at="1e9"), ["OK", ID, False], "invalid"),
    "created_at -1": (event(created_at=-1), ["OK", ID, False], "invalid"),
    "created_at 2^63": (event(created_at=2**63), ["OK", ID, False], "invalid"),
    "created_at of 5,000 digits": (raw_event(created_at="1" * 5_000), ["NOTICE"], "invalid"),
    "tags as an object": (event(tags={}), ["OK", ID, False], "invalid"),
    "a tag as text": (event(tags=["t"]), ["OK", ID, False], "invalid"),
    "a number in a tag": (event(tags=[["t", 1]]), ["OK", ID, False], "invalid"),
    "null in a tag": (event(tags=[["t", []]]), ["OK", ID, False], "invalid"),
    "content as a number": (event(content=1), ["OK", ID, False], "invalid"),
    "a wrong id": (event(content="other"), ["OK", ID, False], "invalid"),
    "a wrong signature": (event(sig="ab" * 64), ["OK", ID, False], "invalid"),
    "a field twice": (
        raw_event(kind="1", **{"x": "1", "x ": "2"}).replace('"x "', '"x"'),
        ["OK", ID, False],
        "invalid",
    ),
    "a deep unknown field": (raw_event(x="[" * 1_010 + "]" * 1_010), ["OK", ID, False], "invalid"),
    # REQ and COUNT
    "REQ alone": ('["REQ"]', ["NOTICE"], "invalid"),
    "REQ without filters": ('["REQ","a"]', ["CLOSED", "a"], "invalid"),
    "REQ by a number": ('["REQ",1,{}]', ["NOTICE"], "invalid"),
    "REQ by null": ('["REQ",null,{}]', ["NOTICE"], "invalid"),
    "REQ by nothing": ('["REQ","",{}]', ["NOTICE"], "invalid"),
    "REQ by 65 characters": (f'["REQ","{"é" * 65}",{{}}]', ["NOTICE"], "invalid"),
    "a filter as text": ('["REQ","a","x"]', ["CLOSED", "a"], "invalid"),
    "a filter as an array": ('["REQ","a",[]]', ["CLOSED", "a"], "invalid"),
    "a bad second filter": ('["REQ","a",{},1]', ["CLOSED", "a"], "invalid"),
    "ids as text": ('["REQ","a",{"ids":"x"}]', ["CLOSED", "a"], "invalid"),
    "an id prefix": ('["REQ","a",{"ids":["abcd"]}]', ["CLOSED", "a"], "invalid"),
    "an upper-case author": (f'["REQ","a",{{"authors":["{"AB" * 32}"]}}]', ["CLOSED", "a"], "invalid"),
    "kinds as text": ('["REQ","a",{"kinds":["1"]}]', ["CLOSED", "a"], "invalid"),
    "kind 1.5": ('["REQ","a",{"kinds":[1.5]}]', ["CLOSED", "a"], "invalid"),
    "kinds true": ('["REQ","a",{"kinds":[true]}]', ["CLOSED", "a"], "invalid"),
    "a negative kind": ('["REQ","a",{"kinds":[-1]}]', ["CLOSED", "a"], "invalid"),
    "limit -1": ('["REQ","a",{"limit":-1}]', ["CLOSED", "a"], "invalid"),
    "limit as text": ('["REQ","a",{"limit":"1"}]', ["CLOSED", "a"], "invalid"),
    "limit 1e2": ('["REQ","a",{"limit":1e2}]', ["CLOSED", "a"], "invalid"),
    "since as text": ('["REQ","a",{"since":"yesterday"}]', ["CLOSED", "a"], "invalid"),
    "a short #e": ('["REQ","a",{"#e":["x"]}]', ["CLOSED", "a"], "invalid"),
    "a number in #t": ('["REQ","a",{"#t":[1]}]', ["CLOSED", "a"], "invalid"),
    "a tag of two letters": ('["REQ","a",{"#ab":["x"]}]', ["CLOSED", "a"], "unsupported"),
    "an unknown condition": ('["REQ","a",{"colour":"red"}]', ["CLOSED", "a"], "unsupported"),
    "search for a number": ('["REQ","a",{"search":7}]', ["CLOSED", "a"], "invalid"),
    "21 filters": ('["REQ","a"' + ",{}" * 21 + "]", ["CLOSED", "a"], "invalid"),
    "5,001 values": (
        orjson.dumps(["REQ", "a", {"kinds": list(range(5_001))}]).decode(),
        ["CLOSED", "a"],
        "invalid",
    ),
    "COUNT alone": ('["COUNT"]', ["NOTICE"], "invalid"),
    "COUNT without filters": ('["COUNT","a"]', ["CLOSED", "a"], "invalid"),
    "COUNT of a bad filter": ('["COUNT","a",{"ids":["x"]}]', ["CLOSED", "a"], "invalid"),
    # CLOSE and AUTH
    "CLOSE alone": ('["CLOSE"]', ["NOTICE"], "invalid"),
    "CLOSE of a number": ('["CLOSE",1]', ["NOTICE"], "invalid"),
    "AUTH alone": ('["AUTH"]', ["NOTICE"], "invalid"),
    "AUTH with text": ('["AUTH","x"]', ["NOTICE"], "invalid"),
    "AUTH with a note": (orjson.dumps(["AUTH", GOOD]).decode(), ["OK", ID, False], "invalid"),
}


async def still_serves(wire: Wire) -> bool:
    """Say whether the next question is answered, and by nothing but its answer."""
    return await wire.query({"kinds": [1], "limit": 0}) == []


@pytest.mark.parametrize(("text", "answer", "prefix"), MALFORMED.values(), ids=MALFORMED)
async def test_a_malformed_message_is_answered_and_the_connection_goes_on(
    relay_url: str, text: str, answer: list[object], prefix: str
) -> None:
    async with dial(relay_url) as wire:
        await wire.connection.send(text)

        *start, reason = await wire.receive()

        assert start == answer
        assert re.match(rf"{prefix}: \S", reason)
        assert await still_serves(wire)


async def test_an_unknown_subscription_is_closed_in_silence(relay_url: str) -> None:
    async with dial(relay_url) as wire:
        await wire.send("CLOSE", "never opened")

        assert await still_serves(wire)


async def test_a_message_in_invalid_utf8_closes_its_connection_with_1007(relay_url: str) -> None:
    async with dial(relay_url) as wire:
        await wire.connection.send(b'["REQ","\xff",{}]', text=True)

        with pytest.raises(ConnectionClosed) as closed:
            await wire.receive()

        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == CloseCode.INVALID_DATA


async def test_a_binary_frame_is_answered_with_a_notice(relay_url: str) -> None:
    async with dial(relay_url) as wire:
        await wire.connection.send(b'["REQ","a",{}]')

        verb, reason = await wire.receive()

        assert verb == "NOTICE"
        assert reason.startswith("invalid: ")
        assert await still_serves(wire)


async def test_a_message_beyond_the_limit_closes_its_connection(relay: Served) -> None:
    async with dial(relay.url) as wire, dial(relay.url) as other:
        await wire.connection.send("[" + " " * 262_144 + "]")

        with pytest.raises(ConnectionClosed):
            await wire.receive()

        assert wire.connection.close_code in TOO_BIG
        assert await still_serves(other)


async def test_a_message_in_many_fragments_is_one_message(relay_url: str) -> None:
    async with dial(relay_url) as wire:
        await wire.connection.send(iter('["COUNT","count",{"ids":[]}]'))

        assert await wire.receive() == ["COUNT", "count", {"count": 0}]


async def test_a_fragmented_message_beyond_the_limit_closes_its_connection(relay_url: str) -> None:
    async with dial(relay_url) as wire:
        with pytest.raises(ConnectionClosed):
            await wire.connection.send(" " * 1_000 for _ in range(300))
            await wire.receive()

        assert wire.connection.close_code in TOO_BIG


async def test_a_flood_of_pings_is_answered_and_nobody_else_waits(relay_url: str) -> None:
    async with dial(relay_url) as wire, dial(relay_url) as other:
        pongs = [await wire.connection.ping() for _ in range(2_000)]

        assert await still_serves(other)
        for pong in pongs:
            await pong
        assert await still_serves(wire)


async def test_control_characters_and_rare_code_points_are_kept(relay_url: str) -> None:
    text = "".join(map(chr, range(0x20))) + "\x7f\u2028\ufdd0\uffff\U0010ffff"
    written = note(new_key(), text, tags=[["x", "\0"], [], [""]])

    async with dial(relay_url) as wire:
        assert await wire.publish(written) == (True, "")
        assert await wire.query({"ids": [written.id]}) == [orjson.loads(encode(written))]


async def test_unknown_fields_of_an_event_are_not_passed_on(relay_url: str) -> None:
    written = orjson.loads(encode(note(new_key(), "mine")))

    async with dial(relay_url) as wire:
        await wire.send("EVENT", {**written, "seen_on": ["wss://elsewhere.example"]})

        assert await wire.receive() == ["OK", written["id"], True, ""]
        assert await wire.query({"ids": [written["id"]]}) == [written]


async def test_tags_that_name_no_event_are_kept_and_found_by_other_letters(relay_url: str) -> None:
    key = new_key()
    odd: Event = note(key, tags=[["e", "not hex"], ["p", ""], ["t", "square"]])

    async with dial(relay_url) as wire:
        assert await wire.publish(odd) == (True, "")
        assert [e["id"] for e in await wire.query({"authors": [key.public], "#t": ["square"]})] == [odd.id]


@pytest.mark.parametrize(
    "empty",
    [
        {"ids": []},
        {"authors": []},
        {"kinds": []},
        {"#t": []},
        {"since": 2, "until": 1},
        {"kinds": [65_536]},
        {"limit": 0},
    ],
    ids=str,
)
async def test_a_filter_that_can_match_nothing_gets_its_eose(
    relay_url: str, empty: dict[str, object]
) -> None:
    async with dial(relay_url) as wire:
        assert await wire.query(empty) == []


async def test_a_refused_question_leaves_the_place_of_a_subscription_free(relay_url: str) -> None:
    async with dial(relay_url) as wire:
        for n in range(100):
            with pytest.raises(Refused):
                await wire.subscribe({"kinds": ["x"]}, name=f"refused {n}")

        assert await wire.subscribe({"limit": 0}, name="open") == []


def test_no_malformed_message_leaves_a_traceback(relay: Served) -> None:
    assert "Traceback" not in relay.log.read_text()
