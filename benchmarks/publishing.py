"""Events to a relay as fast as it takes them, until the last OK."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from time import perf_counter

from benchmarks.asking import Asker
from benchmarks.questions import Question
from benchmarks.results import Result
from benchmarks.server import Relay, RelayFailed, Watch
from benchmarks.sockets import PATIENCE_SECONDS, Loop, Peer, Tally, dialed, frame
from relay.nostr.event import Event, encode

WINDOW = 256
"""Unanswered events of one connection."""
READERS = 4
"""Connections that ask beside the publishing ones, where any do."""
_SAMPLE_SECONDS = 0.05


@dataclass
class Published(Result):
    """What publishing gave."""

    largest_log_bytes: int = 0
    """The largest size that the database's write-ahead log was seen to have."""


class Lane:
    """One publishing connection: keeps its window full."""

    def __init__(self, peer: Peer, frames: Sequence[bytes], window: int = WINDOW) -> None:
        self._peer = peer
        self._frames = frames
        self._window = window
        self._sent = 0
        self._accepted, self._refused = Tally(b'",true,"'), Tally(b'",false,"')

    @property
    def accepted(self) -> int:
        return self._accepted.count

    @property
    def refused(self) -> int:
        return self._refused.count

    @property
    def is_done(self) -> bool:
        return self.accepted + self.refused == len(self._frames)

    def take(self, data: bytes) -> None:
        """Count the answers in `data`."""
        self._accepted.take(data)
        self._refused.take(data)

    def fill(self) -> None:
        """Send as many events as the window has room for, once it is half empty."""
        in_flight = self._sent - self.accepted - self.refused
        if in_flight <= self._window // 2 and self._sent < len(self._frames) and not self._peer.has_unsent:
            due = self._frames[self._sent : self._sent + self._window - in_flight]
            self._sent += len(due)
            self._peer.send(b"".join(due))


def event_frames(events: Sequence[Event]) -> list[bytes]:
    """Return the EVENT messages as frames, ready to be sent."""
    return [frame(b'["EVENT",' + encode(event) + b"]") for event in events]


def publish(
    relay: Relay,
    frames: Sequence[bytes],
    connections: int,
    *,
    window: int = WINDOW,
    refusable: int = 0,
    beside: Sequence[Question] = (),
) -> Published:
    """Publish everything, event i on connection i modulo `connections`; until the last OK.

    At most `refusable` of them may be refused: versions that were overtaken by newer ones. Meanwhile
    the questions `beside` are asked without pause, if there are any.
    """
    with dialed(relay.url, connections) as peers, dialed(relay.url, READERS if beside else 0) as readers:
        lanes = {peer: Lane(peer, frames[n::connections], window) for n, peer in enumerate(peers)}
        endless = ((n, beside[n % len(beside)]) for n in count())
        askers = {peer: Asker(peer, endless, is_checked=False) for peer in readers}
        busy = set(lanes.values())
        largest = next_sample = 0.0

        def on_data(peer: Peer, data: bytes) -> None:
            lane = lanes.get(peer)
            if lane is None:
                askers[peer].take(data)
                return
            lane.take(data)
            lane.fill()
            if lane.is_done:
                busy.discard(lane)

        def sample_log() -> float:
            nonlocal largest, next_sample
            now = perf_counter()
            if now >= next_sample:
                largest = max(largest, relay.log_bytes)
                next_sample = now + _SAMPLE_SECONDS
            return PATIENCE_SECONDS

        watch = Watch(relay.pid)
        for lane in lanes.values():
            lane.fill()
        for asker in askers.values():
            asker.fill()
        Loop([*peers, *readers]).run(on_data, lambda: not busy, before_wait=sample_log)
        spent = watch.stop()
    refused = sum(lane.refused for lane in lanes.values())
    if refused > refusable:
        raise RelayFailed(f"{refused} events were refused")
    return Published(len(frames), spent, largest_log_bytes=max(int(largest), relay.log_bytes))
