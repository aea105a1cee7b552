"""The endpoint to which the homeserver pushes what happens in our rooms (Application Service API).

A transaction is acknowledged only after its raw events are durable. The homeserver sends an
unacknowledged one again, so nothing is lost; it may send one event in two transactions, so events are
told apart by their own ids and not by the transaction's.
"""

import hmac
import json
import logging
from collections.abc import Awaitable, Callable
from hashlib import sha256

from aiohttp import web

from bridge.network import Arrival, Inbox

log = logging.getLogger(__name__)

MAX_TRANSACTION_BYTES = 32 * 2**20
"""Synapse puts up to 100 events of 64 KiB into one, and as many messages to devices."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def application(hs_token: str, inbox: Inbox) -> web.Application:
    """Return the web application; `hs_token` is what the homeserver proves itself with."""

    @web.middleware
    async def check_token(request: web.Request, handler: Handler) -> web.StreamResponse:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not given:
            return _error(401, "M_UNAUTHORIZED", "a bearer token is needed")
        if not hmac.compare_digest(given.encode(errors="replace"), hs_token.encode()):
            return _error(403, "M_FORBIDDEN", "the token is wrong")
        try:
            return await handler(request)
        except web.HTTPException as error:
            return _error(error.status, "M_UNRECOGNIZED", error.reason)

    async def transaction(request: web.Request) -> web.Response:
        try:
            # Not orjson: it refuses lone surrogates, and one such event would block all that follow.
            body = json.loads(await request.read())
        except (ValueError, RecursionError):
            return _error(400, "M_NOT_JSON", "the transaction is not JSON")
        events = body.get("events") if isinstance(body, dict) else None
        if not isinstance(events, list):
            return _error(400, "M_BAD_JSON", "a transaction holds a list of events")
        new = inbox.receive([to_arrival(event) for event in events])
        log.debug("transaction events=%d new=%d", len(events), new)
        return web.json_response({})

    async def ping(_: web.Request) -> web.Response:
        return web.json_response({})

    async def unknown(_: web.Request) -> web.Response:
        # Ghosts and rooms are made when they are needed, never because somebody asks for them.
        return _error(404, "M_NOT_FOUND", "there is nobody and nothing by that name")

    app = web.Application(middlewares=[check_token], client_max_size=MAX_TRANSACTION_BYTES)
    app.router.add_put("/_matrix/app/v1/transactions/{id}", transaction)
    app.router.add_post("/_matrix/app/v1/ping", ping)
    app.router.add_get("/_matrix/app/v1/users/{user}", unknown)
    app.router.add_get("/_matrix/app/v1/rooms/{alias}", unknown)
    return app


def to_arrival(event: object) -> Arrival:
    """Return an event as it is kept in the inbox."""
    raw = json.dumps(event, separators=(",", ":")).encode()
    id_ = event.get("event_id") if isinstance(event, dict) else None
    # Without an id it cannot be read either; it is kept by its hash, to be set aside with a reason.
    return Arrival(id_ if isinstance(id_, str) else f"sha256:{sha256(raw).hexdigest()}", raw)


def _error(status: int, code: str, text: str) -> web.Response:
    return web.json_response({"errcode": code, "error": text}, status=status)
