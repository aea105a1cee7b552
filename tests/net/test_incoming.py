"""What a client says: frames in any pieces, fragments, and what breaks RFC 6455."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Close

from relay.net.incoming import Broken, Incoming, parse_goodbye
from tests.net.house import masked

TEXT, BINARY, CONT, PING, PONG, CLOSE = 1, 2, 0, 9, 10, 8


def all_of(incoming: Incoming) -> list[tuple[int, bytes]]:
    found = []
    while (frame := incoming.take()) is not None:
        found.append(frame)
    return found


def mistake(data: bytes, most: int = 100) -> int:
    """Return the code that these bytes close the connection with."""
    incoming = Incoming(most)
    incoming.feed(data)
    with pytest.raises(Broken) as broken:
        all_of(incoming)
    return broken.value.code


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 65_535, 65_536])
def test_a_message_of_any_length_is_unmasked(length: int) -> None:
    incoming = Incoming(100_000)
    incoming.feed(masked(TEXT, b"x" * length))

    assert incoming.take() == (TEXT, b"x" * length)
    assert incoming.take() is None
    assert len(incoming) == 0


def test_messages_of_one_read_come_in_order() -> None:
    incoming = Incoming(100)
    incoming.feed(masked(TEXT, b"one") + masked(PING, b"two") + masked(BINARY, b"three") + masked(CLOSE, b""))

    assert all_of(incoming) == [(TEXT, b"one"), (PING, b"two"), (BINARY, b"three"), (CLOSE, b"")]


def test_fragments_are_joined_and_control_frames_may_stand_between_them() -> None:
    incoming = Incoming(100)
    incoming.feed(masked(TEXT, b"a", ends=False) + masked(CONT, b"b", ends=False) + masked(PONG, b"!"))
    incoming.feed(masked(CONT, b"", ends=False) + masked(CONT, b"c") + masked(TEXT, b"next"))

    assert [frame for frame in all_of(incoming) if frame != (CONT, b"")] == [
        (PONG, b"!"),
        (TEXT, b"abc"),
        (TEXT, b"next"),
    ]


MESSAGES = st.lists(
    st.tuples(st.sampled_from([TEXT, BINARY, PING]), st.binary(max_size=125) | st.just(b"long" * 50)).filter(
        lambda message: message[0] != PING or len(message[1]) <= 125
    ),
    max_size=6,
)


@given(MESSAGES, st.data())
def test_it_does_not_matter_where_reads_begin_and_end(
    messages: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    incoming, found = Incoming(200), []
    rest = b"".join(masked(opcode, payload) for opcode, payload in messages)
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        incoming.feed(rest[:size])
        rest = rest[size:]
        if data.draw(st.booleans()):
            found += all_of(incoming)

    assert found + all_of(incoming) == messages


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (bytes.fromhex("810161"), 1002),
        (bytes.fromhex("c180") + bytes(4), 1002),
        (bytes.fromhex("8380") + bytes(4), 1002),
        (bytes.fromhex("8b80") + bytes(4), 1002),
        (bytes.fromhex("0980") + bytes(4), 1002),
        (bytes.fromhex("89fe007e") + bytes(4 + 126), 1002),
        (masked(CONT, b"of nothing"), 1002),
        (masked(TEXT, b"a", ends=False) + masked(TEXT, b"b"), 1002),
        (masked(TEXT, b"a", ends=False) + masked(BINARY, b"b", ends=False), 1002),
        (masked(TEXT, b"x" * 101), 1009),
        (bytes.fromhex("81ff") + b"\xff" * 8, 1009),
        (masked(TEXT, b"x" * 60, ends=False) + masked(CONT, b"x" * 41), 1009),
    ],
    ids=[
        "not masked",
        "reserved bit",
        "unknown opcode",
        "unknown control opcode",
        "fragmented control",
        "long control",
        "continues nothing",
        "begins within a message",
        "begins a fragment within a message",
        "too long",
        "endless",
        "too long in fragments",
    ],
)
def test_what_breaks_the_protocol_closes_with_its_code(data: bytes, code: int) -> None:
    assert mistake(data) == code


def test_a_message_that_is_too_long_is_refused_before_it_has_come() -> None:
    assert mistake(masked(TEXT, b"x" * 101)[:4]) == 1009


def test_the_longest_message_is_taken() -> None:
    incoming = Incoming(100)
    incoming.feed(masked(TEXT, b"x" * 60, ends=False) + masked(CONT, b"x" * 40))

    assert all_of(incoming)[-1] == (TEXT, b"x" * 100)


def test_a_goodbye_may_have_a_code() -> None:
    assert parse_goodbye(b"") == 1005
    assert parse_goodbye(Close(4000, "mine").serialize()) == 4000


@pytest.mark.parametrize(
    ("payload", "code"), [(b"\x03", 1002), (b"\x03\xed", 1002), (b"\x00\x05", 1002), (b"\x03\xe8\xff", 1007)]
)
def test_a_broken_goodbye_is_answered_with_the_mistake(payload: bytes, code: int) -> None:
    with pytest.raises(Broken) as broken:
        parse_goodbye(payload)

    assert broken.value.code == code


def test_a_message_has_few_fragments_however_short() -> None:
    incoming = Incoming(100)
    incoming.feed(masked(TEXT, b"a", ends=False) + masked(CONT, b"", ends=False) * 1022 + masked(CONT, b"z"))
    assert [frame for frame in all_of(incoming) if frame != (CONT, b"")] == [(TEXT, b"az")]

    assert mistake(masked(TEXT, b"", ends=False) + masked(CONT, b"", ends=False) * 1024) == 1008


def test_a_message_has_begun_with_its_first_byte_and_until_its_last() -> None:
    incoming = Incoming(100)
    assert not incoming.has_begun
    whole = masked(TEXT, b"a", ends=False)
    incoming.feed(whole[:1])
    assert incoming.take() is None
    assert incoming.has_begun

    incoming.feed(whole[1:])
    assert incoming.take() == (CONT, b"")
    assert incoming.has_begun

    incoming.feed(masked(CONT, b"b"))
    assert incoming.take() == (TEXT, b"ab")
    assert not incoming.has_begun
