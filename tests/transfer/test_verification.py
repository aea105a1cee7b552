"""Checking lines, here and in processes of their own."""

import os
import signal

import orjson
import pytest

from relay.nostr.event import encode
from relay.transfer.verification import VerifierLost, check_line, verifiers
from tests.events import ALICE, note

NOTE = note(ALICE, "hello")
LINE = encode(NOTE)
LIMIT = 10_000


def changed(**fields: object) -> bytes:
    return orjson.dumps(orjson.loads(LINE) | fields)


def test_a_right_event_comes_back_in_canonical_form() -> None:
    value = orjson.loads(LINE)
    reordered = orjson.dumps(
        {"relays": ["wss://x"], **dict(reversed(value.items()))}, option=orjson.OPT_INDENT_2
    )

    assert check_line(reordered.replace(b"\n", b" "), LIMIT) == LINE


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"not json", "not JSON"),
        (b'"\xff"', "not JSON"),
        (b"[" * 5_000, "not JSON"),
        (b"[]", "an event is a JSON object"),
        (b"{}", "the event has no id"),
        (changed(kind="1"), "kind must be an integer from 0 to 65535"),
        (changed(content="goodbye"), "id is not the hash of the event"),
        (changed(sig="0" * 128), "signature does not verify"),
        (b"x" * (LIMIT + 1), "longer than 10000 bytes, the longest message of this relay"),
    ],
)
def test_what_is_wrong_with_a_line_is_said(line: bytes, reason: str) -> None:
    assert check_line(line, LIMIT) == reason


@pytest.mark.parametrize("line", [b"", b" \t"])
def test_empty_lines_are_nothing(line: bytes) -> None:
    assert check_line(line, LIMIT) is None


async def test_processes_answer_in_the_order_of_the_lines() -> None:
    async with verifiers(2) as processes:
        assert await processes.check([b"x", LINE, b""], LIMIT) == ["not JSON", LINE, None]
        assert await processes.check([LINE] * 3_000, LIMIT) == [LINE] * 3_000
        assert await processes.check([], LIMIT) == []


async def test_the_death_of_a_process_is_an_error() -> None:
    async with verifiers(1) as processes:
        (child,) = children(os.getpid(), "relay.transfer.verification")
        os.kill(child, signal.SIGKILL)

        with pytest.raises(VerifierLost):
            await processes.check([LINE], LIMIT)


async def test_no_process_is_left_behind() -> None:
    async with verifiers(2):
        assert len(children(os.getpid(), "relay.transfer.verification")) == 2

    assert children(os.getpid(), "relay.transfer.verification") == []


def children(parent: int, command: str) -> list[int]:
    """Return this process's children that run the command."""
    found = []
    for task in os.listdir(f"/proc/{parent}/task"):
        with open(f"/proc/{parent}/task/{task}/children") as file:
            found += [int(pid) for pid in file.read().split()]
    return [pid for pid in found if command in _command_line(pid)]


def _command_line(pid: int) -> str:
    with open(f"/proc/{pid}/cmdline") as file:
        return file.read().replace("\0", " ")
