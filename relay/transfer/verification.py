"""Checking lines on all cores: processes that read chunks of lines and answer with canonical events.

`python -m relay.transfer.verification` is one of them. It ends when its input does, so none is left
behind when the import is killed.
"""

import asyncio
import gc
import marshal
import signal
import struct
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import BinaryIO, cast

import orjson

from relay.nostr.event import check_event, encode, parse_event
from relay.nostr.reasons import Refused
from relay.transfer.source import CHUNK_BYTES

_LENGTH = struct.Struct("<I")

Verdict = bytes | str | None
"""An event's canonical JSON; or why the line holds none; or None for an empty line."""


class VerifierLost(Exception):
    """A process that checks signatures ended by itself; there may be too little memory."""


def check_line(line: bytes, max_line_bytes: int) -> Verdict:
    """Read and verify one event."""
    if len(line) > max_line_bytes:
        return f"longer than {max_line_bytes} bytes, the longest message of this relay"
    if not line or line.isspace():
        return None
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return "not JSON"
    try:
        event = parse_event(value)
        check_event(event)
    except Refused as error:
        return error.refusal.text
    return encode(event)


class Verifiers:
    """A fixed number of processes, each of which checks one chunk at a time."""

    def __init__(self, processes: Sequence[asyncio.subprocess.Process]) -> None:
        self.count = len(processes)
        self._idle: asyncio.Queue[asyncio.subprocess.Process] = asyncio.Queue(self.count)
        for process in processes:
            self._idle.put_nowait(process)

    async def check(self, lines: list[bytes], max_line_bytes: int) -> list[Verdict]:
        """Return a verdict for each line, in order. Raises VerifierLost.

        A cancelled check leaves its process unusable: cancel all, or none.
        """
        process = await self._idle.get()
        assert process.stdin and process.stdout
        body = marshal.dumps((lines, max_line_bytes))
        try:
            process.stdin.write(_LENGTH.pack(len(body)))
            process.stdin.write(body)
            await process.stdin.drain()
            (length,) = _LENGTH.unpack(await process.stdout.readexactly(_LENGTH.size))
            answer = await process.stdout.readexactly(length)
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            raise VerifierLost(
                "a process that checks signatures died; is there too little memory?"
            ) from error
        self._idle.put_nowait(process)
        return cast(list[Verdict], marshal.loads(answer))


@asynccontextmanager
async def verifiers(count: int) -> AsyncIterator[Verifiers]:
    """Run `count` processes that check lines."""
    processes: list[asyncio.subprocess.Process] = []
    try:
        for _ in range(count):
            process = await _start()
            processes.append(process)
        yield Verifiers(processes)
    finally:
        for process in processes:
            # They hold nothing that could be lost.
            if process.returncode is None:
                process.kill()
        for process in processes:
            await process.wait()


async def _start() -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __name__),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=4 * CHUNK_BYTES,
    )


def serve(read: BinaryIO, write: BinaryIO) -> None:
    """Answer chunks until the input ends."""
    while header := read.read(_LENGTH.size):
        lines, max_line_bytes = marshal.loads(read.read(_LENGTH.unpack(header)[0]))
        body = marshal.dumps([check_line(line, max_line_bytes) for line in lines])
        write.write(_LENGTH.pack(len(body)) + body)
        write.flush()


if __name__ == "__main__":
    # Ctrl-C reaches the whole group; the import itself decides when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Parsed events are many objects without cycles: looking for some is a tenth of the work.
    gc.disable()
    serve(sys.stdin.buffer, sys.stdout.buffer)
