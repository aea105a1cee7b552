"""nostr-sdk reconciles a database of its own with a relay (NIP-77), both ways.

    nostr_sdk_sync.py URL DATABASE FILE

FILE holds the events, JSON lines, that the database has at first. Prints how many it has at the end, and
how many either side lacked each time that it asked. A process of its own, as nostr_sdk_client.py is.
"""

import asyncio
import json
import os
import sys
from datetime import timedelta
from pathlib import Path

import nostr_sdk as sdk  # type: ignore[import-untyped]  # generated bindings, without types

DEADLINE = timedelta(seconds=150)
MOST_ROUNDS = 20


async def main(url: str, path: str, events: list[str]) -> None:
    """Synchronise until both sides agree; leave without the interpreter's teardown."""
    # Without it a callback from Rust finds no running loop and ends the process.
    sdk.uniffi_set_event_loop(asyncio.get_running_loop())
    database = await sdk.NostrLmdb.open(path)
    for event in events:
        await database.save_event(sdk.Event.from_json(event))
    client = sdk.ClientBuilder().database(database).build()
    await client.add_relay(sdk.RelayUrl.parse(url))
    await client.connect(and_wait=timedelta(seconds=15))
    relay = await client.relay(sdk.RelayUrl.parse(url))
    options = sdk.SyncOptions().direction(sdk.SyncDirection.BOTH)
    lacked = []
    async with asyncio.timeout(DEADLINE.total_seconds()):
        for _ in range(MOST_ROUNDS):
            summary = await relay.sync(sdk.Filter(), opts=options)
            lacked.append([len(summary.local), len(summary.remote)])
            # It may end before all that it got is saved.
            if lacked[-1] == [0, 0]:
                break
    held = await database.count(sdk.Filter())
    print(json.dumps({"held": held, "lacked": lacked}), flush=True)  # noqa: T201  # the answer
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]).read_text().splitlines()))
