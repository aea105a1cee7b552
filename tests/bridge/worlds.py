"""Two small far sides, and networks between them and the bridge that can be killed at any step.

A `World` outlives the bridge as a homeserver and a relay do: it sends again what was not
acknowledged, and takes a delivery with a known key for the same one.
"""

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from sqlite3 import Connection

from bridge.ledger import Ledger
from bridge.model import Capabilities, Command, Identity, Link, Op, Post, Profile, Ref, Room
from bridge.network import Arrival, Inbox, Rejected, Rendered, Task, Unreachable, Unreadable
from bridge.plan import Act, PutPost, PutProfile, Tell
from bridge.router import Router
from bridge.text import plain, rich

ROOM = Ref("matrix", "!room")
ALICE = Ref("matrix", "@alice")
BOB = Ref("nostr", "7e7e9c42a91bfef19fa929e5fda1b72e0ebc1a4c1141673e2794234d86addf4e")
PUBLIC = Room(world_readable=True, encrypted=False, may_administer=True, may_redact=True)


class Killed(BaseException):
    """The process was killed here."""


@dataclass
class Steps:
    """Counts the steps at which the bridge could be killed, and kills it at one of them."""

    kill_at: int | None = None
    taken: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def step(self) -> None:
        """Take a step; nothing happens after the one at which it is killed."""
        self.taken += 1
        self.changed.set()
        if self.kill_at is not None and self.taken >= self.kill_at:
            raise Killed


@dataclass
class World:
    """What is outside the bridge on one network."""

    name: str
    written: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    """Events for the bridge, in order."""
    acknowledged: set[str] = field(default_factory=set)
    happened: dict[str, str] = field(default_factory=dict)
    """What the bridge made happen, by key, in order."""
    outages: int = 0
    """How many deliveries get no answer before the next one does."""
    refused: frozenset[str] = frozenset()
    """Keys that are refused."""

    def write(self, id_: str, **fields: str) -> None:
        """Let somebody write something."""
        self.written.append((id_, fields))

    @property
    def posts(self) -> list[str]:
        """The texts of the posts that the bridge made, in order."""
        return [text for key, text in self.happened.items() if key.startswith("post ")]


class KillableLedger(Ledger):
    """A ledger during which the process may be killed: before and after every commit."""

    def __init__(self, path: Path, steps: Steps) -> None:
        super().__init__(path)
        self._steps = steps

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with super()._transaction() as db:
            yield db
            self._steps.step()
        self._steps.step()


class WorldNetwork:
    """The bridge's side of a world."""

    can = Capabilities(max_text_bytes=1000)

    def __init__(self, world: World, steps: Steps) -> None:
        self.name = world.name
        self._world = world
        self._steps = steps

    async def run(self, inbox: Inbox) -> None:
        for id_, fields in self._world.written:
            if id_ not in self._world.acknowledged:
                inbox.receive([Arrival(id_, json.dumps({"id": id_} | fields).encode())])
                self._steps.step()
                self._world.acknowledged.add(id_)
                self._steps.step()
                await asyncio.sleep(0)
        await asyncio.get_running_loop().create_future()

    def watch(self, links: Sequence[Link]) -> None:
        """Everything arrives unasked."""

    def parse(self, raw: bytes) -> Op | None:
        fields = json.loads(raw)
        ref = Ref(self.name, fields["id"])
        match fields:
            case {"order": text}:
                return Command(ref, ROOM, ALICE, text, 1000)
            case {"text": text}:
                author, room = (ALICE, ROOM) if self.name == "matrix" else (BOB, None)
                return Post(ref, author, room, 2000, rich(text))
            case {"poison": why}:
                raise Unreadable(why)
            case {"fault": why}:
                raise RuntimeError(why)
        return None

    def render(self, act: Act) -> Rendered:
        match act:
            case PutPost(post):
                text = plain(post.body)
            case PutProfile(identity):
                text = identity.profile.name or ""
            case Tell(_, said):
                text = said
            case _:
                text = type(act).__name__
        native_id = (
            f"note of {act.post.ref.id}" if self.name == "nostr" and isinstance(act, PutPost) else None
        )
        return Rendered(text.encode(), native_id)

    def ghost(self, identity: Identity) -> str:
        return f"ghost of {identity.person.id}"

    async def deliver(self, task: Task) -> str | None:
        self._steps.step()
        await asyncio.sleep(0)
        if self._world.outages:
            self._world.outages -= 1
            raise Unreachable("nobody answers")
        if task.key in self._world.refused:
            raise Rejected("never")
        self._world.happened.setdefault(task.key, task.payload.decode())
        self._steps.step()
        return f"native {task.key}"

    async def profile(self, person: Ref) -> Profile | None:
        await asyncio.sleep(0)
        return Profile(f"name of {person.id[:6]}", None)

    async def room(self, room: Ref, asked_by: Ref) -> Room | None:
        await asyncio.sleep(0)
        return PUBLIC


async def run_until_quiet(path: Path, worlds: Sequence[World], steps: Steps | None = None) -> None:
    """Run a bridge until everything has arrived and gone out. Raises Killed if it was killed before."""
    steps = steps or Steps()
    ledger = KillableLedger(path, steps)
    networks = [WorldNetwork(world, steps) for world in worlds]
    router = asyncio.create_task(Router(ledger, networks, lambda: 1_000_000.0).run())
    quiet = asyncio.create_task(_until_quiet(ledger, worlds, steps))
    try:
        done, _ = await asyncio.wait({router, quiet}, timeout=30, return_when=asyncio.FIRST_COMPLETED)
        assert done, "the bridge hangs"
    finally:
        router.cancel()
        quiet.cancel()
        await asyncio.wait({router, quiet})
        ledger.close()
    if not router.cancelled():
        _raise_kill(router)


def _raise_kill(router: "asyncio.Task[None]") -> None:
    try:
        router.result()
    except BaseExceptionGroup as group:
        _, others = group.split(Killed)
        if others is not None:
            raise others from None
        raise Killed from None


async def _until_quiet(ledger: Ledger, worlds: Sequence[World], steps: Steps) -> None:
    while not _is_quiet(ledger, worlds):
        steps.changed.clear()
        await steps.changed.wait()


def _is_quiet(ledger: Ledger, worlds: Sequence[World]) -> bool:
    return (
        all(len(world.acknowledged) == len(world.written) for world in worlds)
        and not any(ledger.received(world.name, 1) for world in worlds)
        and not ledger.heads()
    )
