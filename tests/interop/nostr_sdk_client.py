"""nostr-sdk (Rust, by its Python bindings) driven by the tests: the line protocol of driver.mjs.

It runs as a process of its own because its callbacks may arrive while the interpreter ends.
"""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import nostr_sdk as sdk  # type: ignore[import-untyped]  # generated bindings, without types

DEADLINE = timedelta(seconds=15)


@dataclass
class Session:
    """One client with its key, its relay and its open subscriptions."""

    client: sdk.Client
    relay: sdk.Relay
    keys: sdk.Keys
    notifications: sdk.ClientNotificationStream
    live: dict[str, asyncio.Queue[Any]] = field(default_factory=dict)
    pump: asyncio.Task[None] | None = None


async def connect(url: str, secret: str, authenticate: bool) -> Session:
    keys = sdk.Keys.parse(secret)
    builder = sdk.ClientBuilder()
    if authenticate:
        builder = builder.authenticator(sdk.SignerAuthenticator(keys))
    client = builder.build()
    options = sdk.RelayOptions().retry_interval(timedelta(seconds=1)).adjust_retry_interval(False)
    await client.add_relay(sdk.RelayUrl.parse(url), opts=options)
    notifications = client.notifications()
    await client.connect(and_wait=DEADLINE)
    if authenticate:
        # An event that is refused while the proof is on its way waits for a proof that has come.
        await _proved(notifications)
    relay = await client.relay(sdk.RelayUrl.parse(url))
    session = Session(client, relay, keys, notifications)
    session.pump = asyncio.create_task(_pump(session))
    return session


async def _proved(notifications: sdk.ClientNotificationStream) -> None:
    """Wait until the relay has taken the answer to its challenge: nothing else was sent yet."""
    while (notification := await notifications.next()) is not None:
        if notification.is_message() and json.loads(notification.message.as_json())[0] == "OK":
            return


async def _pump(session: Session) -> None:
    """Sort what arrives by subscription: events, and None for EOSE."""
    while (notification := await session.notifications.next()) is not None:
        if not notification.is_message():
            continue
        message = json.loads(notification.message.as_json())
        match message:
            case ["EVENT", name, event] if name in session.live:
                session.live[name].put_nowait(event)
            case ["EOSE", name, *_] if name in session.live:
                session.live[name].put_nowait(None)


async def sign(session: Session, event: dict[str, Any]) -> Any:
    builder = sdk.EventBuilder(sdk.Kind(event["kind"]), event["content"])
    builder = builder.tags([sdk.Tag.parse(tag) for tag in event["tags"]])
    builder = builder.custom_created_at(sdk.Timestamp.from_secs(event["created_at"]))
    return json.loads(builder.finalize(session.keys).as_json())


async def publish(session: Session, event: dict[str, Any]) -> Any:
    try:
        await session.relay.send_event(sdk.Event.from_json(json.dumps(event)))
    except sdk.NostrSdkError as error:
        return {"accepted": False, "reason": str(error)}
    return {"accepted": True, "reason": ""}  # the text of an OK true is not shown


async def fetch(session: Session, filter: dict[str, Any]) -> Any:
    wanted = sdk.Filter.from_json(json.dumps(filter))
    events = await session.relay.fetch_events(wanted, timeout=DEADLINE)
    return [json.loads(event.as_json()) for event in events]


async def count(session: Session, filter: dict[str, Any]) -> int:
    return int(await session.relay.count_events(sdk.Filter.from_json(json.dumps(filter)), DEADLINE))


async def subscribe(session: Session, name: str, filter: dict[str, Any]) -> Any:
    queue = session.live[name] = asyncio.Queue()
    await session.relay.subscribe(sdk.Filter.from_json(json.dumps(filter)), id=name)
    stored = []
    while (event := await queue.get()) is not None:
        stored.append(event)
    return stored


async def next_(session: Session, name: str) -> Any:
    while True:
        event = await session.live[name].get()
        if event is not None:  # a second EOSE comes after a reconnect
            return event


async def disconnect(session: Session) -> None:
    await session.client.shutdown()


VERBS: dict[str, Callable[..., Awaitable[Any]]] = {
    "sign": sign,
    "publish": publish,
    "fetch": fetch,
    "count": count,
    "subscribe": subscribe,
    "next": next_,
    "disconnect": disconnect,
}


async def main() -> None:
    """Answer each line of stdin; leave without the interpreter's teardown."""
    loop = asyncio.get_running_loop()
    # Without it a callback from Rust finds no running loop and ends the process.
    sdk.uniffi_set_event_loop(loop)
    sessions: dict[str, Session] = {}
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        request = json.loads(line)
        verb, name = request.pop("call"), request.pop("as")
        reply: dict[str, Any] = {"result": None}
        try:
            async with asyncio.timeout(DEADLINE.total_seconds()):
                if verb == "connect":
                    sessions[name] = await connect(**request)
                else:
                    reply = {"result": await VERBS[verb](sessions[name], **request)}
        except (sdk.NostrSdkError, TimeoutError) as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), flush=True)  # noqa: T201  # the protocol
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
