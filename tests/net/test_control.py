"""The socket on which the operator's commands reach the supervisor, both ends in this process."""

import asyncio
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from relay.net.control import NobodyAnswers, give_order, taking_orders
from relay.net.workers import CannotStart


async def echo(order: str) -> Mapping[str, Any]:
    return {"did": order}


async def ask(path: Path, order: str) -> Any:
    return await asyncio.to_thread(lambda: give_order(path, order, seconds=20))


async def test_an_order_is_answered_and_the_socket_is_its_owners_only(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"

    async with taking_orders(path, echo):
        assert await ask(path, "reload") == {"did": "reload"}
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    assert not path.exists()


async def test_a_socket_that_a_dead_process_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    path.write_text("left behind")

    async with taking_orders(path, echo):
        assert await ask(path, "reload") == {"did": "reload"}


async def test_a_successors_socket_stays_when_its_predecessor_ends(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"

    async def successor(order: str) -> Mapping[str, Any]:
        return {"by": "successor"}

    first = taking_orders(path, echo)
    await first.__aenter__()
    async with taking_orders(path, successor):
        await first.__aexit__(None, None, None)

        assert await ask(path, "reload") == {"by": "successor"}


async def test_nonsense_is_no_order_and_hurts_nobody(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    async with taking_orders(path, echo):
        for said in (b"\n", b"[1]\n", b'{"order": 7}\n', b"\xff\n", b""):
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(said)
            writer.write_eof()
            assert b"did" not in await reader.read()
            writer.close()

        assert await ask(path, "restart") == {"did": "restart"}


async def test_where_nobody_listens_that_is_told(tmp_path: Path) -> None:
    with pytest.raises(NobodyAnswers, match=r"no relay runs on this folder: .*No such file or directory"):
        give_order(tmp_path / "control.sock", "reload", seconds=1)


async def test_where_it_cannot_listen_the_start_says_so(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match=r"cannot listen on .*: No such file or directory"):
        async with taking_orders(tmp_path / "missing" / "control.sock", echo):
            pass
