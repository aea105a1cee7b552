"""The router: a link to each partner of each stream, their cursors, and what is told of them."""

import asyncio
import os
import time
from pathlib import Path

import orjson
import structlog

from relay.config import RelayConfig, StreamConfig
from relay.engine.limits import Rate
from relay.mirror.cursors import CURSORS, Cursors
from relay.mirror.exchange import Direction
from relay.mirror.house import House, Partner
from relay.mirror.link import Link, Stream
from relay.net.streams import STATUS
from relay.nostr.filter import Filter, parse_filter
from relay.nostr.keys import SecretKey
from relay.store.api import Bell, StoreError

log = structlog.get_logger(__name__)

SAVE_SECONDS = 1.0
STATUS_SECONDS = 2.0


def stream_of(name: str, settings: StreamConfig) -> Stream:
    """Return a stream as the configuration describes it."""
    filters = tuple(parse_filter(orjson.loads(text)) for text in settings.filters)
    return Stream(
        name,
        Direction(settings.direction),
        filters or (Filter(),),
        Rate(settings.events_per_minute),
        settings.compare_seconds,
        settings.overlap_seconds,
    )


class Router:
    """All streams of one relay."""

    def __init__(
        self,
        house: House,
        config: RelayConfig,
        signers: dict[str, SecretKey | None],
        data: Path,
    ) -> None:
        """`signers` are the keys to authenticate with, by the names of streams; `data` holds the cursors."""
        self._house = house
        self._data = data
        self._cursors = Cursors(data / CURSORS)
        self._changed = False
        self.links: list[Link] = []
        for name, settings in sorted(config.router.items()):
            stream = stream_of(name, settings)
            for url in dict.fromkeys(settings.urls):
                asked = f"{settings.direction} {' '.join(settings.filters)}"
                self.links.append(
                    Link(
                        house,
                        Partner(url, signers[name], settings.trusted),
                        stream,
                        self._cursors.of(f"{name} {url}", asked),
                        on_change=self._note_change,
                        on_backfill=self._tell_others,
                    )
                )
        self._cursors.keep(frozenset(f"{link.stream.name} {link.partner.url}" for link in self.links))

    async def run(self) -> None:
        """Keep all links up until cancelled; then save how far they have come."""
        has_up = any(link.stream.direction.is_up for link in self.links)
        self._house.store.listen(self._on_bell)
        self._house.store.follow(has_up)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._save())
                tasks.create_task(self._tell())
                for link in self.links:
                    tasks.create_task(link.run())
        finally:
            self._cursors.save()
            (self._data / STATUS).unlink(missing_ok=True)

    def _on_bell(self, bell: Bell) -> None:
        for link in self.links:
            link.ring()

    def _note_change(self) -> None:
        self._changed = True

    def _tell_others(self, source: Link) -> None:
        """Have others compare what came by comparison: much of it is not in the log that they follow."""
        for link in self.links:
            if link is not source and link.partner.url != source.partner.url and link.stream.direction.is_up:
                link.compare_soon()

    async def _save(self) -> None:
        while True:
            await asyncio.sleep(SAVE_SECONDS)
            if self._changed:
                self._changed = False
                try:
                    self._cursors.save()
                except OSError as error:
                    # What was done since is done again after a restart, no more.
                    log.error("the cursors could not be saved", error=str(error))

    async def _tell(self) -> None:
        while True:
            try:
                head: int | None = await self._house.store.head()
            except StoreError as error:
                log.warning("how far streams are behind is not known", error=str(error))
                head = None
            status = {"written_at": time.time(), "links": [_status(link, head) for link in self.links]}
            new = (self._data / STATUS).with_suffix(".new")
            try:
                new.write_bytes(orjson.dumps(status))
                os.replace(new, self._data / STATUS)
            except OSError as error:
                log.error("the status could not be written", error=str(error))
            await asyncio.sleep(STATUS_SECONDS)


def _status(link: Link, head: int | None) -> dict[str, object]:
    health, totals, cursor = link.health, link.health.totals, link.cursor
    status: dict[str, object] = {
        "stream": link.stream.name,
        "url": link.partner.url,
        "direction": link.stream.direction.value,
        "connected": link.is_connected,
        "state": health.state.value,
        "since": health.since,
        "error": health.error,
        "interruptions": health.interruptions,
        "received": totals.received,
        "sent": totals.sent,
        "refused_here": totals.refused_here.total,
        "refused_there": totals.refused_there.total,
        "withheld": totals.withheld.total,
        "broken": totals.broken.total + totals.not_given + totals.not_had + totals.not_wanted,
        "compared_at": cursor.compared,
        "by_paging": health.by_paging,
        "left_here": health.left_here,
        "left_there": health.left_there,
        "reasons": {
            "refused_here": totals.refused_here,
            "refused_there": totals.refused_there,
            "withheld": totals.withheld,
            "broken": totals.broken,
        },
    }
    if link.stream.direction.is_up and head is not None and cursor.sent is not None:
        status["lag_events"] = max(0, head - cursor.sent)
    if link.stream.direction.is_down and cursor.caught_up is not None:
        status["behind_seconds"] = max(0, int(time.time()) - cursor.caught_up)
    return status
