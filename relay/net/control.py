"""A socket in the data folder on which the supervisor takes orders of the operator's commands.

One JSON object in a line each way: `{"order": "reload"}`, and what became of it. The socket is for its owner
only (mode 0600), who could as well signal the process.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import structlog

from relay.net.workers import CannotStart
from relay.store.private_sockets import listen, socket_address

log = structlog.get_logger(__name__)

CONTROL_SOCKET = "control.sock"
ASK_SECONDS = 5.0
"""For a command to say what it wants."""
_LINE_BYTES = 2**20

Answer = Mapping[str, Any]
CarryOut = Callable[[str], Awaitable[Answer]]
"""(order) → what is told of it."""


class NobodyAnswers(Exception):
    """No relay runs on this folder; the text is for the operator."""


@asynccontextmanager
async def taking_orders(path: Path, carry_out: CarryOut) -> AsyncIterator[None]:
    """Take orders on a socket of this name, in place of what an earlier process has left there.

    Raises CannotStart.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(ASK_SECONDS):
                line = await reader.readline()
            match orjson.loads(line):
                case {"order": str(order)}:
                    answer = await carry_out(order)
                case _:
                    answer = {"error": "expected an object with an order"}
            writer.write(orjson.dumps(answer) + b"\n")
            await writer.drain()
        except (OSError, TimeoutError, ValueError) as error:
            log.warning("an order was not understood", error=str(error))
        finally:
            writer.close()

    try:
        listening = listen(path)
    except OSError as error:
        raise CannotStart(f"cannot listen on {path}: {error.strerror}") from error
    inode = os.stat(path).st_ino
    server = await asyncio.start_unix_server(serve, sock=listening)
    try:
        yield
    finally:
        server.close()
        # A successor may have put its own there.
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path).st_ino == inode:
                os.unlink(path)


def give_order(path: Path, order: str, *, seconds: float) -> Any:
    """Have the supervisor that listens at `path` carry out an order; return its answer.

    Raises NobodyAnswers.
    """
    asking = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    asking.settimeout(seconds)
    try:
        with asking:
            with socket_address(path) as address:
                asking.connect(address)
            asking.sendall(orjson.dumps({"order": order}) + b"\n")
            with asking.makefile("rb") as answers:
                line = answers.readline(_LINE_BYTES)
    except TimeoutError as error:
        raise NobodyAnswers(f"the relay gave no answer within {seconds:g} seconds") from error
    except OSError as error:
        raise NobodyAnswers(f"no relay runs on this folder: {path}: {error.strerror}") from error
    if not line:
        raise NobodyAnswers("the relay stopped before it answered")
    return orjson.loads(line)
