"""Write plugins: real programs, those of the documents and such as misbehave."""

import asyncio
import os
import shlex
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from relay.config import RelayConfig
from relay.nostr.event import Event
from tests.events import ALICE, BOB, NOW, Clock, event, note, notes
from tests.net.house import Client, House

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs/operating/examples"
PROGRAM = ROOT / "tests/plugins/program.py"
NO_ANSWER = (False, "error: the relay's policy gave no answer; try again later")


def behaving(how: str, **settings: object) -> RelayConfig:
    """Return a configuration with the tests' own program, behaving so."""
    return plugged(f"{shlex.quote(sys.executable)} {shlex.quote(str(PROGRAM))} {how}", **settings)


def plugged(command: str, **settings: object) -> RelayConfig:
    write = {"command": command, "seconds": 30, **settings}
    limits = {"events_per_minute": 0}
    return RelayConfig.model_validate(
        {"trust_bridge_keys": [BOB.public], "limits": limits, "plugins": {"write": write}}
    )


async def test_the_script_of_the_documents_refuses_and_drops(clock: Clock) -> None:
    config = plugged(str(EXAMPLES / "no_invites.py"))
    async with House(clock, config) as house:
        client, reader = await house.connect(), await house.connect()
        await reader.subscribe("s", {"kinds": [1]})

        assert await client.publish(note(ALICE, "hello")) == (True, "")
        assert await client.publish(note(ALICE, "join https://t.me/x")) == (
            False,
            "blocked: no invites, please",
        )
        assert await client.publish(note(ALICE, "again")) == (True, "")
        # A shadow reject: its author is told yes, and nobody sees it.
        assert await client.publish(note(ALICE, "again", created_at=NOW + 1)) == (True, "")
        assert sorted(await client.find({})) == ["again", "hello"]
        assert await reader.live() == [("s", "hello"), ("s", "again")]


async def test_the_shell_script_of_the_documents_takes_only_whom_it_is_told(clock: Clock) -> None:
    config = plugged(f"{shlex.quote(str(EXAMPLES / 'allow.sh'))} {ALICE.public}")
    sly = note(BOB, f'"pubkey":"{ALICE.public}"', tags=[["pubkey", ALICE.public]])
    async with House(clock, config) as house:
        client = await house.connect()

        assert await client.publish(note(ALICE, 'x "y" \\ z')) == (True, "")
        assert await client.publish(sly) == (False, "blocked: not on the list")


async def test_many_are_asked_about_at_once_and_answered_in_any_order(clock: Clock) -> None:
    published = notes(ALICE, 40)
    async with House(clock, behaving("backwards")) as house:
        client = await house.connect()

        client.send_at_once(*(("EVENT", one._asdict()) for one in published))

        said = [await client.receive() for _ in published]
        assert {(one[1], one[2]) for one in said} == {(one.id, True) for one in published}
        assert await client.count({}) == 40


async def test_copies_are_judged_once_and_stored_once(clock: Clock) -> None:
    async with House(clock, behaving("backwards")) as house:
        one, other = await house.connect(), await house.connect()
        published = notes(ALICE, 10)
        for first in published[:9]:
            one.send_event(first)
            other.send_event(first)
        await asyncio.sleep(0)
        one.send_event(published[9])

        said = [await one.receive() for _ in range(10)] + [await other.receive() for _ in range(9)]

        assert all(accepted for _, _, accepted, _ in said)
        assert await one.count({}) == 10


async def test_what_one_client_is_refused_is_asked_again_for_another(clock: Clock) -> None:
    """An event that somebody else brings first, from where it is refused, is not refused to its author."""
    async with House(clock, behaving("told")) as house:
        one, other = await house.connect("192.0.2.1"), await house.connect("192.0.2.2")
        published = note(ALICE)
        one.send_event(published)
        other.send_event(published)

        said = [(await client.receive())[3] for client in (one, other)]

        assert '"192.0.2.1"' in said[0] and '"192.0.2.2"' in said[1]


async def test_ephemeral_events_are_asked_about_too(clock: Clock) -> None:
    async with House(clock, behaving("by_content")) as house:
        client, reader = await house.connect(), await house.connect()
        await reader.subscribe("s", {"kinds": [20_001]})

        assert await client.publish(event(ALICE, 20_001, "reject:pow: no")) == (False, "pow: no")
        assert await client.publish(event(ALICE, 20_001, "accept")) == (True, "")
        assert await reader.live() == [("s", "accept")]


async def test_other_kinds_the_bridge_and_requests_to_vanish_are_not_asked_about(clock: Clock) -> None:
    async with House(clock, behaving("by_content", kinds=["1", 62])) as house:
        client, bridge = await house.connect(), await house.connect()
        await bridge.authenticate(BOB, NOW)

        assert await client.publish(note(ALICE, "reject")) == (
            False,
            "blocked: the relay's policy refuses this",
        )
        assert await client.publish(event(ALICE, 7, "reject", tags=[["e", "0" * 64]])) == (True, "")
        assert await bridge.publish(note(ALICE, "reject")) == (True, "")
        assert await client.publish(event(ALICE, 62, "reject", tags=[["relay", "ALL_RELAYS"]])) == (True, "")


async def test_what_other_rules_refuse_is_not_asked_about(clock: Clock) -> None:
    async with House(clock, behaving("by_content")) as house:
        client = await house.connect()
        forged = note(ALICE, "accept")._replace(sig="0" * 128)

        assert await client.publish(forged) == (False, "invalid: signature does not verify")


@pytest.mark.parametrize(("on_failure", "said"), [("refuse", NO_ANSWER), ("accept", (True, ""))])
@pytest.mark.parametrize("behaviour", ["hang", "crash"])
async def test_no_answer_is_a_no_or_a_yes_as_the_operator_says(
    clock: Clock, behaviour: str, on_failure: str, said: tuple[bool, str]
) -> None:
    async with House(clock, behaving(behaviour, seconds=1.5, on_failure=on_failure)) as house:
        client = await house.connect()
        assert await client.publish(note(ALICE, "good")) == (True, "")

        assert await client.publish(note(ALICE, behaviour)) == said
        await answered_again(client)


async def answered_again(client: Client) -> None:
    """Wait until the program serves again: it is restarted when it is asked, after a pause."""
    async with asyncio.timeout(30):
        for number in range(10_000):
            if await client.publish(note(ALICE, f"after {number}")) == (True, ""):
                return


async def test_one_that_hangs_holds_up_nobody_else(clock: Clock) -> None:
    async with House(clock, behaving("hang", seconds=2.5)) as house:
        stuck, client = await house.connect(), await house.connect()
        stuck.send_event(note(ALICE, "hang"))

        for number in range(20):
            assert await client.publish(note(ALICE, str(number))) == (True, "")


async def test_one_that_is_busy_is_waited_for(clock: Clock) -> None:
    """What is behind others in its queue takes longer than an answer may, and is answered all the same."""
    # More than it takes off the pipe meanwhile, too.
    published = [note(ALICE, f"{number} {'x' * 50_000}", created_at=NOW + number) for number in range(80)]
    async with House(clock, behaving("slowly", seconds=1.2)) as house:
        client = await house.connect()

        client.send_at_once(*(("EVENT", one._asdict()) for one in published))

        assert [(await client.receive())[2] for _ in published] == [True] * 80


async def test_one_that_reads_no_more_is_started_anew(clock: Clock) -> None:
    async with House(clock, behaving("deaf", seconds=1.5)) as house:
        client = await house.connect()
        assert await client.publish(note(ALICE, "first")) == (True, "")

        with capture_logs() as logs:
            assert await client.publish(note(ALICE, "second")) == NO_ANSWER
            await answered_again(client)

        assert next(log["why"] for log in logs if log["event"] == "killing a plugin") == "it does not answer"


async def test_nonsense_is_told_and_hurts_only_whom_it_was_the_answer_for(clock: Clock) -> None:
    async with House(clock, behaving("nonsense", seconds=1.5)) as house:
        client = await house.connect()

        with capture_logs() as logs:
            said = [await client.publish(note(ALICE, str(number))) for number in range(4)]
            assert said == [(True, "")] * 4
            assert await client.publish(note(ALICE, "nonsense")) == NO_ANSWER

        # Twelve lines and more of it, but not as many warnings.
        assert [log["times"] for log in logs if log["event"] == "a plugin answers nonsense"] == [
            1,
            2,
            4,
            8,
            16,
        ]


async def test_a_line_without_an_end_ends_the_program(clock: Clock) -> None:
    async with House(clock, behaving("endless")) as house:
        client = await house.connect()

        assert await client.publish(note(ALICE)) == NO_ANSWER


async def test_a_program_that_is_not_there_is_told_and_tried_again(clock: Clock, tmp_path: Path) -> None:
    file = tmp_path / "plugin"
    async with House(clock, plugged(str(file))) as house:
        client = await house.connect()
        with capture_logs() as logs:
            assert await client.publish(note(ALICE, "1")) == NO_ANSWER
        assert {"plugin": "write", "error": "No such file or directory"}.items() <= logs[0].items()

        file.write_text((EXAMPLES / "allow.sh").read_text())
        file.chmod(0o700)

        async with asyncio.timeout(30):
            while await client.publish(note(ALICE, "2")) == NO_ANSWER:
                pass
        assert await client.publish(note(ALICE, "3")) == (False, "blocked: not on the list")


async def test_a_changed_file_is_a_new_program(clock: Clock, tmp_path: Path) -> None:
    file = tmp_path / "plugin"

    def write(answer: str) -> None:
        # A shell reads its script as it goes: it has to be another file.
        new = tmp_path / "new"
        new.write_text((EXAMPLES / "allow.sh").read_text().replace("not on the list", answer))
        new.chmod(0o700)
        new.rename(file)

    write("one")
    async with House(clock, plugged(str(file))) as house:
        client = await house.connect()
        assert await client.publish(note(ALICE)) == (False, "blocked: one")

        write("another")

        async with asyncio.timeout(30):
            while await client.publish(note(ALICE)) == (False, "blocked: one"):
                pass
        assert await client.publish(note(ALICE)) == (False, "blocked: another")


async def test_it_says_as_much_as_it_likes_and_some_of_it_is_logged(clock: Clock) -> None:
    async with House(clock, behaving("talkative")) as house:
        client = await house.connect()

        with capture_logs() as logs:
            assert await client.publish(note(ALICE, "1")) == (True, "")
            assert await client.publish(note(ALICE, "2")) == (True, "")

        said = [log["said"] for log in logs if log["event"] == "a plugin says"]
        assert set(said) == {"a word to the operator"} and len(said) <= 20


async def test_it_sees_none_of_the_relays_settings(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORV_BRIDGE__MATRIX__AS_TOKEN", "secret")
    async with House(clock, behaving("environment")) as house:
        client = await house.connect()

        assert await client.publish(note(ALICE)) == (False, "blocked: the relay's policy refuses this")


async def test_its_process_ends_with_the_relay(clock: Clock, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    async with House(clock, plugged(f"echo $$ > {file}; exec {EXAMPLES / 'no_invites.py'}")) as house:
        client = await house.connect()
        await client.publish(note(ALICE))
        pid = int(file.read_text())
        os.kill(pid, 0)

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_several_processes_share_the_work(clock: Clock, tmp_path: Path) -> None:
    """The first is stuck with one event; the other takes the rest."""
    async with House(clock, behaving("hang", seconds=2.5, processes=2)) as house:
        stuck, client = await house.connect(), await house.connect()
        stuck.send_event(note(ALICE, "hang"))
        said = [await client.publish(one) for one in some(20)]

    assert said == [(True, "")] * 20


def some(count: int) -> list[Event]:
    return [note(ALICE, f"note {number}") for number in range(count)]
