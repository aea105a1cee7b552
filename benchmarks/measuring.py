"""One run: starts relays, measures them, gathers the lines of the table."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import asking, delivery, filler, idle, publishing, questions, report
from benchmarks.dataset import DataSet
from benchmarks.filling import Filling, copied, filling
from benchmarks.machine import Machine
from benchmarks.questions import Question
from benchmarks.report import Row
from benchmarks.results import Result, percentile
from benchmarks.server import DATABASE, Relay, fresh_data, serve, usage
from benchmarks.transfer import import_events
from benchmarks.worst import worst

PUBLISHERS = (1, 8, 64)
ASKERS = (1, 16)
AUTHORS_EACH = 200
LIVE_PER_SECOND = 50
_NOTES_MORE = 4
"""So many times the notes for fewer subscribers, for the run to last."""
_MIB = 2**20


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    asks: int
    """Questions of each timed run."""
    subscribers: Sequence[int]
    notes: int
    """Of a fan-out to the most subscribers."""
    idle: int
    """Connections."""
    seconds: int
    """Of steady publishing, and of idling."""
    large: int
    """Events of the large database."""


class Run:
    """One run with one number of workers."""

    def __init__(
        self,
        data: DataSet,
        asked: Sequence[Question],
        sizes: Sizes,
        machine: Machine,
        *,
        config: Path,
        workers: int,
        say: Callable[[str], None],
    ) -> None:
        """`asked`: questions of the data set with their answers, REQ and COUNT. Workers 0: the default."""
        self.rows: list[Row] = []
        self._data = data
        self._asked = asked
        self._sizes = sizes
        self._cores = machine.cores
        self._config = config
        self._workers = workers
        self._say = say
        self._frames = publishing.event_frames(data.events)
        # Between connections a newer version may overtake an older one, which is then refused.
        self._replaced = len(data.events) - len(data.surviving)

    def _add(
        self,
        key: str,
        name: str,
        method: str,
        result: Result,
        note: str = "",
        *,
        figure: float | None = None,
        unit: str = report.PER_SECOND,
    ) -> None:
        self.rows.append(
            report.row(key, name, method, result, self._cores, figure=figure, unit=unit, note=note)
        )

    def _add_figure(self, key: str, name: str, method: str, figure: float, unit: str, note: str = "") -> None:
        self.rows.append(Row(key, name, method, figure, unit, note=note))

    @contextmanager
    def _serving(self, data: Path | None = None, *, search: bool = True) -> Iterator[Relay]:
        """Run a relay on a data folder, or on a fresh one."""
        with ExitStack() as stack:
            where = stack.enter_context(fresh_data()) if data is None else data
            yield stack.enter_context(serve(self._config, where, workers=self._workers, search=search))

    def ingest(self) -> None:
        """Publish the whole set into empty databases; then again, one by one, and with readers beside."""
        for connections in PUBLISHERS:
            self._say(f"ingest over {connections}")
            with fresh_data() as data:
                with self._serving(data) as relay:
                    refusable = self._replaced if connections > 1 else 0
                    result = publishing.publish(relay, self._frames, connections, refusable=refusable)
                    note = f"{usage(relay.pid).resident_bytes / _MIB:.0f} MB resident"
                    self._add(f"ingest/{connections}", "ingest events", _over(connections), result, note)
                    if connections == PUBLISHERS[-1]:
                        self._again(relay, connections)
                # Its stop has copied the log into the database.
                size = (data / DATABASE).stat().st_size
        each = size / len(self._data.surviving)
        self._add_figure("disk", "disk", "for each surviving event, the log copied", each, "B")
        self._one_by_one()
        self._beside_readers()

    def _again(self, relay: Relay, connections: int) -> None:
        self._say("known duplicates")
        # Superseded versions are not kept, so they are not known.
        result = publishing.publish(relay, self._frames, connections, refusable=self._replaced)
        self._add("duplicates", "known duplicates", _over(connections), result)

    def _one_by_one(self) -> None:
        self._say("one event at a time")
        with self._serving() as relay:
            result = publishing.publish(relay, self._frames[: 2 * self._sizes.asks], 1, window=1)
        self._add("single", "one event at a time", _over(1), result)

    def _beside_readers(self) -> None:
        self._say("the log beside readers")
        requests = [question for question in self._asked if question.verb == "REQ"]
        with self._serving() as relay:
            result = publishing.publish(
                relay, self._frames, PUBLISHERS[-1], refusable=self._replaced, beside=requests
            )
        method = f"{PUBLISHERS[-1]} publish, {publishing.READERS} ask"
        note = f"{result.rate:,.0f} events a second meanwhile"
        largest = result.largest_log_bytes / _MIB
        self._add("log", "largest write-ahead log", method, result, note, figure=largest, unit="MB")

    def query_and_live(self, *, query: bool, live: bool) -> None:
        """Ask, and deliver new notes, with the whole set stored."""
        with self._serving() as relay:
            self._say("filling")
            publishing.publish(relay, self._frames, PUBLISHERS[-1], refusable=self._replaced)
            if query:
                self._say("questions, checked")
                asking.check(relay, self._asked)
                self._query(relay, self._asked, "")
            if live:
                for subscribers in self._sizes.subscribers:
                    self._live(relay, subscribers)

    def _query(self, relay: Relay, asked: Sequence[Question], where: str) -> None:
        """Ask for speed. `where` begins the keys of the rows."""
        asks = self._sizes.asks
        place = "large: " if where else ""
        requests = [question for question in asked if question.verb == "REQ"]
        counts = [question for question in asked if question.verb == "COUNT"]
        for connections in ASKERS:
            self._say(f"{place}questions over {connections}")
            found = asking.query(relay, requests, connections, asks=asks)
            note = f"{found.events / found.spent.seconds:,.0f} events a second"
            key = f"{where}query/{connections}"
            self._add(key, f"{place}answer REQs, mixed", _over(connections), found, note)
            for name in questions.NAMES if connections == 1 else ():
                if (of := found.of(name)).count:
                    self._type(f"{where}query/{name}", f"  {place}{name}", of)
        self._say(f"{place}counts")
        counting = asking.query(relay, counts, 1, asks=asks)
        self._add(f"{where}count", f"{place}answer COUNTs", _over(1), counting)

    def _type(self, key: str, name: str, found: asking.Answers) -> None:
        """Add the line of one type of question, as it went in the mix."""
        middle, slow = found.latency_ms(0.5) or 0.0, found.latency_ms(0.99)
        note = f"{found.events / found.count:,.0f} events each"
        self.rows.append(
            Row(key, name, "in the mix, p50", middle, "ms", p50_ms=middle, p99_ms=slow, note=note)
        )

    def _live(self, relay: Relay, subscribers: int) -> None:
        self._say(f"live to {subscribers}")
        count = LIVE_PER_SECOND * self._sizes.seconds
        steady = delivery.live_latency(relay, subscribers, count, per_second=LIVE_PER_SECOND)
        to = f"{subscribers:,} subscribers"
        self._add(
            f"latency/{subscribers}",
            "live latency",
            f"{to}, {LIVE_PER_SECOND} notes a second, p50",
            steady,
            figure=steady.latency_ms(0.5),
            unit="ms",
        )
        notes = self._sizes.notes * min(_NOTES_MORE, max(self._sizes.subscribers) // subscribers)
        for authors_each in (None, AUTHORS_EACH):
            of = "all notes" if authors_each is None else f"{authors_each} authors each"
            result = delivery.fan_out(relay, subscribers, notes, authors_each=authors_each)
            note = f"{notes / result.spent.seconds:,.0f} notes a second"
            key = f"live/{subscribers}/{'all' if authors_each is None else 'authors'}"
            self._add(key, "deliver live", f"{to}, {of}", result, note)

    def idle(self) -> None:
        """Hold connections that wait."""
        connections = self._sizes.idle
        self._say(f"{connections} idle connections")
        with self._serving() as relay:
            found = idle.idle(relay, connections, seconds=self._sizes.seconds)
        note = f"{found.opening.rate:,.0f} opened a second; {found.cpu_share:.1%} of a core while idle"
        method = f"{connections:,} with one subscription of 20 authors"
        self._add_figure("idle", "idle connection", method, found.bytes_each / 1000, "kB", note)

    def import_(self) -> None:
        """Import the set from a file."""
        self._say("import")
        result, starting = import_events(self._data.events, self._config)
        note = f"{result.spent.seconds:.1f} s, about {starting:.1f} of them to start and stop"
        self._add("import", "import events", "one file", result, note)

    def large(self, filled: Filling) -> None:
        """Measure what a large database changes."""
        into = f"into {filled.size:,}"
        self._say("large: start")
        with self._serving(filled.data, search=False) as relay:
            seconds = asking.first_answer(relay)
            self._add_figure(
                "large/start", "start to the first answer", f"with {filled.size:,}", seconds, "s"
            )
            self._say("large: questions")
            asked = questions.unanswered(filled.subjects, min(self._sizes.asks, 300))
            answered = asking.first_answers(relay, [*asked, *questions.counted(asked)])
            self._query(relay, answered, "large/")
            self._page_back(relay, filled.size // filler.PROLIFIC_SHARE)
            self._beside_the_worst(relay, answered, filled.subjects.until)
        self._say("large: ingest")
        with copied(filled.data) as data, self._serving(data, search=False) as relay:
            connections = PUBLISHERS[-1]
            result = publishing.publish(relay, self._frames, connections, refusable=self._replaced)
            note = f"the log grew to {result.largest_log_bytes / _MIB:.0f} MB"
            self._add("large/ingest", f"ingest {into}", _over(connections), result, note)

    def _page_back(self, relay: Relay, expected: int) -> None:
        self._say("large: pages")
        result = asking.page_back(relay, filler.prolific(), expected)
        self._add(
            "pages",
            f"page back through {expected:,}",
            f"limit {asking.PAGE}, slowest page",
            result,
            f"{result.count:,} pages",
            figure=max(result.latencies) * 1000,
            unit="ms",
        )

    def _beside_the_worst(self, relay: Relay, answered: Sequence[Question], newest: int) -> None:
        """Ask what a reader usually asks, first alone, then beside the worst there is."""
        self._say("large: worst questions")
        usual = [question for question in answered if question.name in questions.USUAL]
        hostile = worst(newest)
        for question in hostile:
            asking.check_is_taken(relay, question)
        asks = min(self._sizes.asks, 300)
        quiet = asking.query(relay, usual, 1, asks=asks)
        with asking.repeated(relay, hostile):
            loaded = asking.query(relay, usual, 1, asks=asks)
        before, beside = percentile(quiet.latencies, 0.99) * 1000, percentile(loaded.latencies, 0.99) * 1000
        self._add(
            "large/worst",
            "a reader's p99, times",
            f"beside {len(hostile)} worst questions",
            loaded,
            f"p99 {before:.1f} ms alone, {beside:.1f} ms beside them",
            figure=beside / before,
            unit="×",
        )


@contextmanager
def large_database(size: int, say: Callable[[str], None]) -> Iterator[Filling]:
    """Fill a large database with unsigned events; removed at the end."""
    with filling(size) as filled:
        filled.grow(size, lambda done: say(f"large: filling, {done:,} of {size:,}"))
        yield filled


def _over(connections: int) -> str:
    return "1 connection" if connections == 1 else f"{connections} connections"
