"""Matrix as a network of the bridge: an appservice of one homeserver.

Messages are sent with a transaction id *and* a device id. With both, Synapse stores the pair and
returns the same event when a message is sent again, also after its own restart; without a device it
forgets transaction ids when it restarts, and makes a second event.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TypeVar, cast

import aiohttp
import orjson
from aiohttp import web
from mautrix.api import HTTPAPI, MediaPath, Method, Path, PathBuilder
from mautrix.errors import (
    MatrixConnectionError,
    MatrixRequestError,
    MUnknownToken,
    MUserInUse,
)
from mautrix.util.logging import TraceLogger

from bridge.media import PictureFetcher
from bridge.model import Capabilities, Identity, Link, Op, Profile, Ref, Room
from bridge.network import CannotRun, Inbox, Rejected, Rendered, Task, Unreachable
from bridge.networks.matrix import appservice, convert, recovery
from bridge.networks.matrix.registration import APPSERVICE_ID, Tokens
from bridge.networks.matrix.settings import MatrixConfig
from bridge.plan import Act
from relay.client import backoff

K = TypeVar("K")

log = logging.getLogger(__name__)

DEVICE = "TORV"
BOT_NAME = "Torv"

REQUEST_SECONDS = 30.0
RECOVERY_SECONDS = 300.0
"""How long an event that the homeserver forgot to push may go unnoticed."""
MAX_REMEMBERED = 10_000
"""Users and memberships that are known to be in order, so that they are not set up anew."""


class MatrixNetwork:
    """The rooms and people of one homeserver. An async context manager around its HTTP clients."""

    name = convert.NETWORK
    # An event has at most 65,536 bytes, JSON escapes and everything around the text included.
    can = Capabilities(max_text_bytes=30_000)

    def __init__(self, config: MatrixConfig, tokens: Tokens, pictures: PictureFetcher) -> None:
        self._config = config
        self._tokens = tokens
        self._pictures = pictures
        self._registered: OrderedDict[str, None] = OrderedDict()
        self._joined: OrderedDict[tuple[str, str], None] = OrderedDict()
        # A room that is entered while a profile changes may be left with the profile from before.
        self._profiles = asyncio.Lock()
        self._links: Sequence[Link] = ()
        self._is_out = False
        self._must_recover = asyncio.Event()

    async def __aenter__(self) -> "MatrixNetwork":
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS), cookie_jar=aiohttp.DummyCookieJar()
        )
        self._api = HTTPAPI(
            self._config.homeserver.rstrip("/"),
            self._tokens.as_token,
            client_session=self._session,
            # Any logger will do, whatever the library declares.
            log=cast(TraceLogger, logging.getLogger("mautrix.http")),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    def watch(self, links: Sequence[Link]) -> None:
        self._links = [link for link in links if link.room.network == self.name]
        self._must_recover.set()

    async def run(self, inbox: Inbox) -> None:
        runner = web.AppRunner(appservice.application(self._tokens.hs_token, inbox), access_log=None)
        await runner.setup()
        try:
            try:
                await web.TCPSite(runner, self._config.host, self._config.port).start()
            except OSError as error:
                raise CannotRun(f"bridge.matrix.host and .port: {error.strerror}") from error
            await self._introduce(inbox)
            await self._watch_over(inbox)
        finally:
            await runner.cleanup()

    async def _introduce(self, inbox: Inbox) -> None:
        """Make the bot's account and have the homeserver send at once what it has kept for us."""
        said = ""
        for pause in backoff():
            try:
                await self._register(self._config.bot_id)
                await self._show_name(self._config.bot_id, BOT_NAME)
                # Before the homeserver pushes what is newer: so it comes in order.
                await self._recover(inbox)
                # The homeserver's own pause before it tries again grows to minutes; a ping ends it.
                await self._call(Method.POST, Path.v1.appservice[APPSERVICE_ID].ping)
            except (Unreachable, Rejected) as error:
                if str(error) != said:
                    log.warning("the homeserver is not ready, trying again: %s", error)
                said = str(error)
                await asyncio.sleep(pause)
            else:
                log.info("connected homeserver=%s bot=%s", self._config.homeserver, self._config.bot_id)
                return

    async def _watch_over(self, inbox: Inbox) -> None:
        """Look for ever for what was not pushed: now and then, after an outage, and in new rooms."""
        while True:
            self._must_recover.clear()
            try:
                await self._recover(inbox)
            except Unreachable as error:
                log.debug("cannot look for what was not pushed: %s", error)
            try:
                async with asyncio.timeout(RECOVERY_SECONDS):
                    await self._must_recover.wait()
            except TimeoutError:
                continue

    async def _recover(self, inbox: Inbox) -> None:
        for link in self._links:
            await recovery.recover(self._ask_as_bot, inbox, link.room.id, link.since_ms)

    async def _ask_as_bot(self, path: PathBuilder, query: Mapping[str, str]) -> dict[str, object]:
        return await self._call(Method.GET, path, user=self._config.bot_id, query=query)

    def parse(self, raw: bytes) -> Op | None:
        return convert.to_op(raw, self._config)

    def render(self, act: Act) -> Rendered:
        return Rendered(orjson.dumps(convert.to_request(act, self._config)), None)

    def ghost(self, identity: Identity) -> str:
        return self._config.ghost_id(identity.person)

    async def deliver(self, task: Task) -> str | None:
        request = orjson.loads(task.payload)
        user = request["as"]
        await self._register(user)
        match request["do"]:
            case "send":
                if "answers" in request:
                    request["content"] |= convert.answer_relation(request["answers"], task.known)
                return await self._send(task, request, user)
            case "react":
                relation = convert.reaction_relation(request["to"], request["key"], task.known)
                if relation is None:
                    raise Rejected("what it reacts to was never sent")
                request["content"] |= relation
                return await self._send(task, request, user, type_="m.reaction")
            case "redact":
                await self._redact(task, request, user)
            case "name":
                await self._show_name(user, request["name"])
            case "picture":
                await self._show_picture(user, request["url"])
            case "join":
                await self._join(user, request["room"])
        return None

    async def _send(
        self, task: Task, request: dict[str, object], user: str, *, type_: str = "m.room.message"
    ) -> str:
        room = cast(str, request["room"])
        path = Path.v3.rooms[room].send[type_][convert.transaction_id(task.key)]
        content = cast(dict[str, object], request["content"])
        query = {"ts": str(request["ts"])} if "ts" in request else {}
        await self._join(user, room)
        try:
            sent = await self._call(Method.PUT, path, content, user=user, query=query)
        except Rejected:
            # What is remembered of the ghost may be wrong by now: it was put out, or its device removed.
            self._forget(user, room)
            await self._register(user)
            await self._join(user, room)
            sent = await self._call(Method.PUT, path, content, user=user, query=query)
        return str(sent["event_id"])

    async def _redact(self, task: Task, request: dict[str, object], user: str) -> None:
        if task.native_id is None:
            # The copy was never made: it was rejected, or its room left.
            return
        room = Path.v3.rooms[cast(str, request["room"])]
        await self._call(Method.PUT, room.redact[task.native_id][convert.transaction_id(task.key)], user=user)

    async def _register(self, user: str) -> None:
        """Make sure that the user exists and has the device that its messages are sent with."""
        if user in self._registered:
            return
        local_part = user[1:].partition(":")[0]
        wanted = {"type": "m.login.application_service", "username": local_part, "inhibit_login": True}
        try:
            await self._request(Method.POST, Path.v3.register, wanted)
        except MUserInUse:
            pass
        except MatrixRequestError as error:
            raise _failure(error) from error
        await self._call(Method.PUT, Path.v3.devices[DEVICE], {}, user=user, with_device=False)
        _remember(self._registered, user)

    async def _join(self, user: str, room: str) -> None:
        if (user, room) in self._joined:
            return
        async with self._profiles:
            try:
                await self._call(Method.POST, Path.v3.join[room], {}, user=user)
            except Rejected:
                if user == self._config.bot_id:
                    raise
                # Everybody may read the room, but perhaps not everybody may join it.
                await self._call(
                    Method.POST, Path.v3.rooms[room].invite, {"user_id": user}, user=self._config.bot_id
                )
                await self._call(Method.POST, Path.v3.join[room], {}, user=user)
        _remember(self._joined, (user, room))

    def _forget(self, user: str, room: str) -> None:
        self._registered.pop(user, None)
        self._joined.pop((user, room), None)

    async def _show_name(self, user: str, name: str) -> None:
        path = Path.v3.profile[user].displayname
        async with self._profiles:
            await self._call(Method.PUT, path, {"displayname": name}, user=user)

    async def _show_picture(self, user: str, url: str | None) -> None:
        mxc = ""
        if url is not None:
            picture = await self._pictures.fetch(url)
            headers = {"Content-Type": picture.content_type}
            uploaded = await self._call(
                Method.POST, MediaPath.v3.upload, picture.data, user=user, headers=headers
            )
            mxc = str(uploaded["content_uri"])
        path = Path.v3.profile[user].avatar_url
        async with self._profiles:
            await self._call(Method.PUT, path, {"avatar_url": mxc}, user=user)

    async def profile(self, person: Ref) -> Profile | None:
        try:
            found = await self._look_up(Path.v3.profile[person.id])
        except Rejected as error:
            log.debug("cannot see a profile: %s", error)
            return None
        return convert.to_profile(found) if found is not None else None

    async def room(self, room: Ref, asked_by: Ref) -> Room | None:
        state = Path.v3.rooms[room.id].state
        try:
            create, power_levels, visibility, encryption = await asyncio.gather(
                self._look_up(state["m.room.create"], {"format": "event"}),
                self._look_up(state["m.room.power_levels"]),
                self._look_up(state["m.room.history_visibility"]),
                self._look_up(state["m.room.encryption"]),
            )
        except Rejected as error:
            log.debug("cannot see room=%s: %s", room.id, error)
            return None
        if create is None:
            return None
        return convert.to_room(create, power_levels, visibility, encryption, asked_by.id)

    async def _look_up(
        self, path: PathBuilder, query: Mapping[str, str] | None = None
    ) -> dict[str, object] | None:
        """Return what is there; None when there is nothing. Raises Rejected when we may not know."""
        try:
            return await self._call(Method.GET, path, user=self._config.bot_id, query=query)
        except _NotThere:
            return None

    async def _call(
        self,
        method: Method,
        path: PathBuilder,
        content: dict[str, object] | bytes | None = None,
        *,
        user: str | None = None,
        with_device: bool = True,
        query: Mapping[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> dict[str, object]:
        """Ask the homeserver, as `user` if given. Raises Unreachable or Rejected."""
        parameters = dict(query or {})
        if user is not None:
            parameters["user_id"] = user
            if with_device and method is not Method.GET:
                parameters["device_id"] = DEVICE
        try:
            return await self._request(method, path, content, parameters, headers)
        except MatrixRequestError as error:
            raise _failure(error) from error

    async def _request(
        self,
        method: Method,
        path: PathBuilder,
        content: dict[str, object] | bytes | None = None,
        query: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> dict[str, object]:
        try:
            # What people write stays out of the log. A GET has no content, which the flag demands.
            answer = await self._api.request(
                method, path, content, headers, query, sensitive=method is not Method.GET
            )
        except (MatrixConnectionError, aiohttp.ClientError, TimeoutError, ValueError) as error:
            self._is_out = True
            # ValueError: an answer that is not JSON, as proxies give it when the homeserver is down.
            raise Unreachable(f"{self._config.homeserver}: {error or type(error).__name__}") from error
        if self._is_out:
            self._is_out = False
            self._must_recover.set()
        if not isinstance(answer, dict):
            raise Unreachable(f"{self._config.homeserver}: the answer is not an object")
        return answer


class _NotThere(Rejected):
    """What was asked for does not exist."""


def _failure(error: MatrixRequestError) -> Unreachable | Rejected:
    text = f"{error.http_status} {error.errcode}: {error.message}"
    # A token that is not known (yet) is the operator's to mend; what waits must not be lost by it.
    if error.http_status == 429 or error.http_status >= 500 or isinstance(error, MUnknownToken):
        return Unreachable(text)
    return _NotThere(text) if error.http_status == 404 else Rejected(text)


def _remember(known: OrderedDict[K, None], key: K) -> None:
    known[key] = None
    if len(known) > MAX_REMEMBERED:
        known.popitem(last=False)
