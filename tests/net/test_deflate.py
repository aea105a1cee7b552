"""permessage-deflate: what is agreed on, what comes out of hostile bytes, and what readers are sent."""

import time
import zlib
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    PerMessageDeflate,
)
from websockets.frames import Frame, Opcode

from relay.config import RelayConfig
from relay.engine.subscription import LiveEvent
from relay.net.connection import LARGE_BYTES
from relay.net.deflate import MAX_BYTES, MIN_BYTES, Deflater, InvalidExtensions, inflate, negotiate
from relay.net.incoming import Broken, Incoming
from relay.nostr.messages import delivered_prefix
from relay.store.api import Seq, Stored
from tests.events import ALICE, Clock, note
from tests.net.house import Client, House, frames

AGREED = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
MOST = 262_144


def deflated(data: bytes, bits: int = 15) -> bytes:
    """Compress as a client does that keeps nothing between messages."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -bits)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def said(payload: bytes, *, first: int = 0xC1) -> bytes:
    """Return one frame of a client; a mask of zeros changes nothing."""
    length = len(payload)
    size = bytes((0x80 | length,)) if length < 126 else b"\xfe" + length.to_bytes(2, "big")
    if length > 65_535:
        size = b"\xff" + length.to_bytes(8, "big")
    return bytes((first,)) + size + bytes(4) + payload


def refusal(data: bytes) -> int:
    with pytest.raises(Broken) as broken:
        inflate(data, MOST)
    return broken.value.code


# Agreement.


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        ("permessage-deflate", AGREED),
        ("permessage-deflate; client_max_window_bits", AGREED),
        ("permessage-deflate; client_max_window_bits=8", AGREED),
        ('permessage-deflate; client_no_context_takeover; client_max_window_bits="15"', AGREED),
        ("permessage-deflate; server_no_context_takeover", AGREED),
        ("permessage-deflate; server_max_window_bits=12", f"{AGREED}; server_max_window_bits=12"),
        ("permessage-deflate; server_max_window_bits=15", f"{AGREED}; server_max_window_bits=12"),
        ("permessage-deflate; server_max_window_bits=9, permessage-deflate", AGREED),
        ("x-webkit-deflate-frame, permessage-deflate", AGREED),
    ],
)
def test_an_offer_is_taken(offer: str, answer: str) -> None:
    assert negotiate([offer]) == answer


@pytest.mark.parametrize(
    "offer",
    [
        "x-webkit-deflate-frame",
        "permessage-bzip2",
        "permessage-deflate; unknown",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=8",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=012",
        "permessage-deflate; client_max_window_bits=7",
        "permessage-deflate; client_max_window_bits=x",
    ],
)
def test_an_offer_that_is_wrong_or_asks_for_less_than_we_need_is_declined(offer: str) -> None:
    assert negotiate([offer]) is None


def test_without_offers_there_is_nothing_to_agree_on() -> None:
    assert negotiate([]) is None


@pytest.mark.parametrize("line", ["permessage-deflate;;", "a b", '"', "permessage-deflate; x=\x7f", ";"])
def test_a_header_that_makes_no_sense_ends_the_handshake(line: str) -> None:
    with pytest.raises(InvalidExtensions):
        negotiate(["permessage-deflate", line])


@pytest.mark.parametrize("bits", [None, 12, 15])
def test_a_client_that_nobody_here_wrote_accepts_our_answer(bits: int | None) -> None:
    factory = ClientPerMessageDeflateFactory(server_max_window_bits=bits, client_max_window_bits=True)
    parameters = "; ".join(
        name if value is None else f"{name}={value}" for name, value in factory.get_request_params()
    )

    answer = negotiate([f"permessage-deflate; {parameters}"])

    assert answer is not None
    pairs = [part.strip().partition("=") for part in answer.split(";")[1:]]
    extension = factory.process_response_params([(name, value or None) for name, _, value in pairs], [])
    assert extension.local_no_context_takeover
    assert extension.remote_no_context_takeover


# What comes in.


@given(st.binary(max_size=5_000), st.integers(9, 15))
def test_what_a_client_compressed_is_what_it_said(data: bytes, bits: int) -> None:
    assert inflate(deflated(data, bits), MOST) == data


def test_every_kind_of_block_is_read() -> None:
    # The examples of RFC 7692, section 7.2.3: one block, stored, final, two blocks.
    hello = [
        "f2 48 cd c9 c9 07 00",
        "00 05 00 fa ff 48 65 6c 6c 6f 00",
        "f3 48 cd c9 c9 07 00 00",
        "f2 48 05 00 00 00 ff ff ca c9 c9 07 00",
    ]

    assert [inflate(bytes.fromhex(example), MOST) for example in hello] == [b"Hello"] * 4


@pytest.mark.parametrize("length", [MOST, MOST + 1])
def test_a_message_is_as_long_as_it_may_be(length: int) -> None:
    found = inflate(deflated(b"x" * length), MOST)

    assert found == (b"x" * MOST if length == MOST else None)


def test_a_bomb_takes_no_more_than_a_message_may() -> None:
    bomb = deflated(bytes(2**28))
    assert len(bomb) < 2**19

    began = time.process_time()
    assert inflate(bomb, MOST) is None

    assert time.process_time() - began < 0.1, "inflating all of it takes about a second"


@pytest.mark.parametrize("data", [b"\xff", b"\x06", b"hello", b"\x01\x05\x00\x00\x00hello"])
def test_what_is_no_deflate_is_refused(data: bytes) -> None:
    assert refusal(data * 10) == 1007


def test_blocks_that_say_nothing_are_refused() -> None:
    empty_stored = b"\x00\x00\x00\xff\xff"
    assert inflate(empty_stored * 100, MOST) == b""

    assert refusal(empty_stored * 50_000) == 1007


def test_final_blocks_are_few() -> None:
    final = b"\x03\x00"
    assert inflate(final * 7, MOST) == b""

    assert refusal(final * 8) == 1007


@given(st.binary(max_size=2_000))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    try:
        found = inflate(data, 10_000)
    except Broken as broken:
        assert broken.code == 1007
    else:
        assert found is None or len(found) <= 10_000


# Frames in.


def test_the_bit_means_something_where_it_was_agreed_on_only() -> None:
    for deflates in (True, False):
        incoming = Incoming(100, deflates=deflates)
        incoming.feed(said(b"abc"))
        if deflates:
            assert incoming.take() == (0x41, b"abc")
        else:
            with pytest.raises(Broken) as broken:
                incoming.take()
            assert broken.value.code == 1002


@pytest.mark.parametrize("first", [0xC9, 0xC8, 0xCA, 0xC0, 0xE1, 0xA1, 0xD1, 0x91, 0xF1])
def test_the_bit_of_control_frames_and_of_fragments_that_follow_has_no_meaning(first: int) -> None:
    incoming = Incoming(100, deflates=True)
    if first == 0xC0:
        incoming.feed(said(b"a", first=0x41))
        assert incoming.take() == (0, b"")
    incoming.feed(said(b"abc", first=first))

    with pytest.raises(Broken) as broken:
        incoming.take()
    assert broken.value.code == 1002


def test_a_compressed_message_may_come_in_fragments() -> None:
    incoming = Incoming(100, deflates=True)
    incoming.feed(said(b"a", first=0x41) + said(b"!", first=0x89) + said(b"b", first=0x80))

    assert [incoming.take() for _ in range(4)] == [(0, b""), (9, b"!"), (0x41, b"ab"), None]


# Frames out.


def read(frame: bytes) -> list[bytes]:
    """Read frames as a client does that nobody here wrote."""
    extension = PerMessageDeflate(True, True, 12, 15)
    found = []
    while frame:
        length, start = frame[1], 2
        if length == 126:
            length, start = int.from_bytes(frame[2:4], "big"), 4
        elif length == 127:
            length, start = int.from_bytes(frame[2:10], "big"), 10
        whole = Frame(
            Opcode(frame[0] & 0x0F), frame[start : start + length], True, rsv1=bool(frame[0] & 0x40)
        )
        found.append(bytes(extension.decode(whole).data))
        frame = frame[start + length :]
    return found


@given(
    st.lists(st.binary(min_size=1, max_size=600), min_size=1, max_size=4), st.text(min_size=1, max_size=64)
)
def test_readers_get_what_was_meant(contents: list[bytes], name: str) -> None:
    deflater = Deflater()
    prefix = delivered_prefix(name)
    expected = [prefix + content + b"]" for content in contents]
    rows = [Stored(Seq(n), 0, content) for n, content in enumerate(contents)]
    events = [LiveEvent(None, content) for content in contents]
    pieces: list[bytes] = []

    size = deflater.frames.add_stored(pieces, prefix, rows)

    assert len(b"".join(pieces)) == size
    assert read(b"".join(pieces)) == expected
    assert read(deflater.frames.live(prefix, events)) == expected
    assert read(deflater.frames.live(b"[]", events)) == [b"[]" + content + b"]" for content in contents]
    assert read(b"".join(map(deflater.frames.text, contents))) == contents


@pytest.mark.parametrize("length", [1, MIN_BYTES - 1, MIN_BYTES, MAX_BYTES, MAX_BYTES + 1, 200_000])
def test_messages_of_any_length_are_read(length: int) -> None:
    deflater = Deflater()
    row = Stored(Seq(1), 0, b"x" * length)
    pieces: list[bytes] = []
    size = deflater.frames.add_stored(pieces, b"[", [row])

    assert read(deflater.frames.text(b"x" * length)) == [b"x" * length]
    assert read(b"".join(pieces)) == [b"[" + b"x" * length + b"]"]
    assert len(b"".join(pieces)) == size


def test_an_event_is_compressed_once_for_all_its_readers() -> None:
    deflater = Deflater()
    event = LiveEvent(None, b'{"content":"' + b"hello " * 100 + b'"}')

    first = deflater.frames.live(b'["EVENT","a",', [event])
    kept = event.deflated
    second = deflater.frames.live(b'["EVENT","another",', [event])

    assert kept is not None and event.deflated is kept
    assert kept in first and kept in second
    assert len(first) < 100


# A connection.


@pytest.fixture
async def small(clock: Clock) -> AsyncIterator[House]:
    config = RelayConfig.model_validate({"limits": {"max_message_bytes": 100_000}})
    async with House(clock, config) as house:
        yield house


@pytest.fixture
async def client(small: House) -> Client:
    return await small.connect(deflates=True)


async def test_a_compressed_question_is_answered_by_compressed_events(small: House, client: Client) -> None:
    await client.publish(note(ALICE, "long " * 100))

    client.wire.say(said(deflated(b'["REQ","q",{}]')))

    verb, name, found = await client.receive()
    assert (verb, name, found["content"]) == ("EVENT", "q", "long " * 100)
    assert (await client.receive())[0] == "EOSE"
    await client.publish(note(ALICE, "live " * 100))
    assert await client.live() == [("q", "live " * 100)]
    other = await small.connect()
    assert sorted(await other.find({})) == ["live " * 100, "long " * 100]


async def test_messages_between_compressed_ones_may_be_plain(client: Client) -> None:
    client.send("COUNT", "plain", {})
    client.wire.say(said(deflated(b'["COUNT","deflated",{}]')) + said(b'["COUNT","again",{}]', first=0x81))

    assert [(await client.receive())[1] for _ in range(3)] == ["plain", "deflated", "again"]


@pytest.mark.parametrize("spaces", [LARGE_BYTES, 90_000])
async def test_a_long_compressed_message_is_taken_in_its_turn(client: Client, spaces: int) -> None:
    client.wire.say(said(deflated(b'["COUNT",' + b" " * spaces + b'"long",{}]')))
    client.send("COUNT", "short", {})

    assert [(await client.receive())[1] for _ in range(2)] == ["long", "short"]


async def test_many_small_bombs_wait_behind_those_who_say_little(small: House, client: Client) -> None:
    other = await small.connect(deflates=True)
    bomb = said(deflated(b'["COUNT",' + b" " * 90_000 + b'"bomb",{}]'))
    assert len(bomb) < 200
    client.wire.say(bomb * 20)
    for n in range(20):
        other.wire.say(said(deflated(b'["COUNT","%d",{}]' % n)))

    answered = [(await other.receive())[1] for _ in range(20)]

    assert answered == [f"{n}" for n in range(20)]
    assert client.wire.payloads.qsize() <= 10
    assert [(await client.receive())[1] for _ in range(20)] == ["bomb"] * 20


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b'["COUNT",' + b" " * 100_000 + b'"long",{}]', 1009),
        (bytes(2**24), 1009),
        (b'["COUNT","\xff",{}]', 1007),
        (b'["COUNT",' + b" " * 90_000 + b'"\xff",{}]', 1007),
    ],
    ids=["longer than may be", "a bomb", "not UTF-8", "long and not UTF-8"],
)
async def test_a_compressed_message_that_is_wrong_closes_the_connection(
    client: Client, data: bytes, code: int
) -> None:
    client.wire.say(said(deflated(data)))
    await client.ended()

    assert client.wire.closed is not None
    assert client.wire.closed[0] == code


async def test_what_is_not_compressed_and_says_so_closes_the_connection(client: Client) -> None:
    client.wire.say(said(b'["COUNT","q",{}]'))
    await client.ended()

    assert client.wire.closed == (1007, b"this is not compressed with DEFLATE")


async def test_a_compressed_binary_message_has_no_meaning_either(client: Client) -> None:
    client.wire.say(said(b"\x00", first=0xC2))

    (heard,) = await client.heard()
    assert heard[0] == "NOTICE"


async def test_a_connection_sends_what_a_reader_without_compression_can_read(small: House) -> None:
    plain = await small.connect()
    await plain.publish(note(ALICE, "long " * 100))
    raw: list[int] = []
    write = plain.wire.write

    def watched(data: bytes | bytearray | memoryview) -> None:
        raw.append(bytes(data)[0])
        write(data)

    plain.wire.write = watched  # type: ignore[method-assign]
    assert await plain.find({}) == ["long " * 100]

    assert set(raw) == {0x81}
    assert frames(b"\x81\x00") == [(1, b"")]
