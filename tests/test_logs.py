"""Where log lines go and how they look."""

import io
import logging
from collections.abc import Iterator

import orjson
import pytest
import structlog

from relay.logs import start_logging
from relay.settings import LogConfig


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_elsewhere_than_on_a_terminal_each_line_is_a_json_object() -> None:
    stream = io.StringIO()
    start_logging(LogConfig(), stream)

    structlog.get_logger("relay.net").info("connection closed", code=1000)
    logging.getLogger("library").warning("value is %d", 7)

    ours, theirs = map(orjson.loads, stream.getvalue().splitlines())
    assert ours.pop("timestamp").endswith("Z")
    assert ours == {"event": "connection closed", "code": 1000, "level": "info", "logger": "relay.net"}
    assert (theirs["event"], theirs["level"], theirs["logger"]) == ("value is 7", "warning", "library")


def test_a_traceback_is_part_of_its_line() -> None:
    stream = io.StringIO()
    start_logging(LogConfig(), stream)

    try:
        raise RuntimeError("broken")
    except RuntimeError:
        structlog.get_logger("relay").exception("cannot go on")

    (line,) = map(orjson.loads, stream.getvalue().splitlines())
    assert line["exception"].endswith("RuntimeError: broken")


def test_a_terminal_gets_lines_for_people() -> None:
    stream = Terminal()
    start_logging(LogConfig(), stream)

    structlog.get_logger("relay").info("ready", port=7777)

    assert "ready" in stream.getvalue()
    assert "{" not in stream.getvalue()


def test_a_traceback_on_a_terminal_shows_no_values() -> None:
    """The variables of a function may hold an event's content, a key or a token."""
    stream = Terminal()
    start_logging(LogConfig(), stream)
    content = "".join(["dear", " diary"])

    try:
        raise RuntimeError(len(content))
    except RuntimeError:
        structlog.get_logger("relay").exception("cannot go on")

    assert "RuntimeError: 10" in stream.getvalue()
    assert "dear diary" not in stream.getvalue()


def test_json_can_be_had_on_a_terminal() -> None:
    stream = Terminal()
    start_logging(LogConfig(format="json"), stream)

    structlog.get_logger("relay").info("ready")

    assert orjson.loads(stream.getvalue())["event"] == "ready"


def test_less_than_the_level_is_not_written() -> None:
    stream = io.StringIO()
    start_logging(LogConfig(level="warning", format="json"), stream)

    structlog.get_logger("relay").info("quiet")
    logging.getLogger("library").info("quiet")
    structlog.get_logger("relay").warning("loud")

    assert [orjson.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["loud"]


def test_libraries_do_not_write_a_line_per_request() -> None:
    stream = io.StringIO()
    start_logging(LogConfig(), stream)

    logging.getLogger("aiohttp.access").info("GET / 200")

    assert stream.getvalue() == ""


def test_the_newest_start_counts() -> None:
    first, second = io.StringIO(), io.StringIO()
    start_logging(LogConfig(), first)
    start_logging(LogConfig(), second)

    structlog.get_logger("relay").info("ready")

    assert first.getvalue() == ""
    assert len(second.getvalue().splitlines()) == 1
