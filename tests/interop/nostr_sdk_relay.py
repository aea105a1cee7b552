"""nostr-sdk's own relay, for this one to sync with.

    nostr_sdk_relay.py DATABASE FILE

FILE holds the events, JSON lines, that it has at first. Prints its URL, and ends when its standard input
does. A process of its own, as nostr_sdk_client.py is.
"""

import asyncio
import os
import sys
from pathlib import Path

import nostr_sdk as sdk  # type: ignore[import-untyped]  # generated bindings, without types


async def main(path: str, events: list[str]) -> None:
    """Serve; leave without the interpreter's teardown."""
    # Without it a callback from Rust finds no running loop and ends the process.
    sdk.uniffi_set_event_loop(asyncio.get_running_loop())
    database = await sdk.NostrLmdb.open(path)
    for event in events:
        await database.save_event(sdk.Event.from_json(event))
    limits = sdk.RateLimit(max_reqs=100_000, notes_per_minute=1_000_000)
    relay = sdk.LocalRelayBuilder().addr("127.0.0.1").database(database).rate_limit(limits).build()
    await relay.run()
    print(await relay.url(), flush=True)  # noqa: T201  # the answer
    await asyncio.to_thread(sys.stdin.read)
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]).read_text().splitlines()))
