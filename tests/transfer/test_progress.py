"""What is shown while an import or export runs."""

from io import StringIO

from rich.console import Console

from relay.transfer.progress import Lines, meter


def test_lines_come_at_most_once_a_second() -> None:
    written: list[str] = []
    clock = iter([0.0, 0.5, 1.0, 1.5, 2.5]).__next__

    with Lines("events", 1_000, written.append, clock) as shown:
        for events, position in ((100, 1), (300, 500), (400, 600), (600, 1_000)):
            shown.show(events, position)

    assert written == [
        "events: 300 events, 200 a second, 50%\n",
        "events: 600 events, 200 a second, 100%\n",
    ]


def test_without_a_size_no_share_is_shown() -> None:
    written: list[str] = []

    with Lines("events", None, written.append, iter([0.0, 1.0, 2.0]).__next__) as shown:
        shown.show(0, 10)
        shown.show(1_500, 20)

    assert written == ["events: 0 events, 0 a second\n", "events: 1,500 events, 750 a second\n"]


def test_a_terminal_gets_a_bar() -> None:
    terminal = StringIO()

    with meter("events", 200, console=Console(file=terminal, force_terminal=True, width=100)) as shown:
        shown.show(1_234, 100)

    assert "━" in terminal.getvalue()
    assert "50%" in terminal.getvalue()
    assert "1,234 events" in terminal.getvalue()


def test_elsewhere_there_is_no_bar() -> None:
    file = StringIO()

    with meter("events", 200, console=Console(file=file, force_terminal=False)) as shown:
        shown.show(1_234, 100)

    assert file.getvalue() == ""
