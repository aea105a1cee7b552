"""`torv relay why` names every rule that was asked, and why one refuses; `dry-run`, for what is stored."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest
from click.testing import CliRunner, Result

from relay import policies
from relay.config import RelayConfig
from relay.engine.feature import Context
from relay.nostr.event import Event, encode
from relay.store import open_store
from relay.store.api import Write
from tests.events import ALICE, BOB, event, note
from tests.net.house import RELAY_KEY
from tests.wire.client import now
from torv import load_config, main

EXAMPLES = Path(__file__).parents[2] / "docs/operating/examples"
DRAFT = {"kind": 1, "content": "Buy now!"}


class Case(NamedTuple):
    """A configuration under which something is refused by one policy."""

    title: str
    config: str
    given: object
    arguments: Sequence[str]
    reason: str


CASES = [
    Case(
        "Lists of keys, kinds, addresses and words",
        '[relay.policies.lists]\ndeny_words = ["buy now"]',
        DRAFT,
        (),
        "blocked: 'buy now' is not welcome here",
    ),
    Case(
        "Lists of keys, kinds, addresses and words",
        '[relay.policies.lists]\ndeny_addresses = ["192.0.2.0/24"]',
        {"kinds": [1]},
        ("--address", "192.0.2.9"),
        "blocked: clients of this address are not served",
    ),
    Case(
        "Size of events",
        '[relay.policies.shape]\nmax_content_chars = ["1=7"]',
        DRAFT,
        (),
        "invalid: content has 8 characters, this relay takes 7 of kind 1",
    ),
    Case(
        "Window of created_at",
        '[relay.policies.window]\nmax_age_seconds = ["1=60"]',
        DRAFT | {"created_at": 1},
        (),
        "invalid: created_at of kind 1 is more than 60 seconds ago",
    ),
    Case(
        "Proof of work by kind",
        '[relay.policies.work]\nleast = ["1=255"]',
        DRAFT,
        (),
        "pow: difficulty ",
    ),
    Case(
        "Who may ask for what",
        '[relay.policies.reading]\nmust_name = ["authors"]',
        [{"authors": ["0" * 64]}, {"kinds": [1]}],
        (),
        "restricted: a filter must name authors here",
    ),
    Case(
        "Web of trust",
        f'[relay.policies.trust]\nroots = ["{BOB.public}"]',
        DRAFT,
        ("--as", ALICE.public, "--authed", ALICE.public),
        "restricted: only people in this relay's web of trust publish here",
    ),
    Case(
        "Rates by address, author and proved key",
        '[relay.policies.rates]\nevents_per_key = ["1=2/minute"]',
        DRAFT,
        ("--times", "3"),
        "rate-limited: at most 2 a minute from one author of events of kind 1",
    ),
    Case(
        "Retention",
        "[relay.retention.notes]\nkinds = [1]\nmax_age_seconds = 60",
        DRAFT | {"created_at": 1},
        (),
        "invalid: ",
    ),
    Case(
        "Budgets of questions",
        "[relay.policies.budget]\nrows_per_question = 2",
        {"kinds": [1]},
        (),
        "restricted: an answer has 2 events at most; ask for less",
    ),
    Case(
        "Budgets of questions",
        "[relay.policies.budget]\nrows_per_minute = 7",
        {"kinds": [1]},
        ("--times", "3", "--address", "192.0.2.9"),
        "rate-limited: one address gets 7 a minute of events in answers",
    ),
    Case(
        "Names at certain domains",
        '[relay.policies.names]\ndomains = ["example.com"]',
        DRAFT,
        ("--as", ALICE.public),
        "restricted: only people with a name (NIP-05) at example.com publish here",
    ),
    Case(
        "Read plugin",
        f'[relay.plugins.read]\ncommand = "{EXAMPLES}/hide_drafts.py"\nseconds = 30',
        {"kind": 31_234, "pubkey": ALICE.public},
        ("--seen", "--authed", BOB.public),
        "restricted: hidden from this reader",
    ),
    Case(
        "Write plugin",
        f'[relay.plugins.write]\ncommand = "{EXAMPLES}/allow.sh {BOB.public}"\nseconds = 30',
        DRAFT,
        ("--as", ALICE.public),
        "blocked: not on the list",
    ),
    Case(
        "Rates by address, author and proved key",
        '[relay.policies.rates]\nrequests_per_address = "4/minute"',
        {"ids": ["0" * 64]},
        ("--times", "5", "--address", "192.0.2.9"),
        "rate-limited: at most 4 a minute from one address of requests",
    ),
]


def torv(folder: Path, config: str, *arguments: str, given: bytes | None = None) -> Result:
    file = folder / "torv.toml"
    file.write_text(config)
    options = ["--config", str(file), "--data", str(folder / "data")]
    return CliRunner().invoke(main, ["relay", *arguments, *options], input=given, obj=load_config)


def why(folder: Path, config: str, given: object, *arguments: str) -> tuple[int, Mapping[str, Any]]:
    result = torv(folder, config, "why", "-", "--json", *arguments, given=orjson.dumps(given))
    assert result.exit_code in (0, 1), result.output
    return result.exit_code, orjson.loads(result.stdout)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.title}, {case.reason[:20]}")
def test_every_policy_refuses_with_its_prefix_and_is_named(case: Case, stored: Path) -> None:
    code, told = why(stored, case.config, case.given, *case.arguments)

    assert (code, told["taken"], told["rule"]) == (1, False, case.title)
    assert told["reason"].startswith(case.reason)
    assert {"rule": case.title, "reason": told["reason"]}.items() <= next(
        one for one in told["asked"] if one["reason"]
    ).items()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.title}, {case.reason[:20]}")
def test_without_the_policy_the_same_is_taken(case: Case, stored: Path) -> None:
    code, told = why(stored, "", case.given, *case.arguments)

    assert (code, told["taken"], told["reason"], told["rule"]) == (0, True, None, None)


def test_no_policy_is_without_a_case() -> None:
    titles = {one.title for one in policies.enabled(RelayConfig(), Context(key=RELAY_KEY))}

    assert {case.title for case in CASES} == titles


def test_all_that_was_asked_is_listed_and_the_first_refusal_is_the_answer(tmp_path: Path) -> None:
    config = '[relay.policies.lists]\ndeny_kinds = [1]\n[relay.policies.shape]\nmax_tags = ["1=0"]\n'
    result = torv(tmp_path, config, "why", orjson.dumps(DRAFT | {"tags": [["t", "x"]]}).decode())

    lines = result.stdout.splitlines()
    assert result.exit_code == 1
    assert lines[1].split("  ") == [
        "Lists of keys, kinds, addresses and words",
        "before the signature",
        "blocked: kind 1 is not taken here",
    ]
    assert "Size of events" in lines[2] and lines[2].endswith("invalid: 1 tags, this relay takes 0 of kind 1")
    assert "Protected events" in result.stdout
    assert lines[-2:] == [
        "a draft: its signature was not looked at",
        "would be refused: blocked: kind 1 is not taken here",
    ]


def test_whether_somebody_may_see_an_event_is_asked_of_veils(tmp_path: Path) -> None:
    wrap = orjson.dumps({"kind": 1059, "tags": [["p", BOB.public]]}).decode()

    hidden = torv(tmp_path, "", "why", wrap, "--seen", "--authed", ALICE.public)
    shown = torv(tmp_path, "", "why", wrap, "--seen", "--authed", BOB.public)

    assert (hidden.exit_code, hidden.stdout.splitlines()[-1]) == (1, "would be hidden")
    assert hidden.stdout.split("  ")[0] == "Gift wrap"
    assert (shown.exit_code, shown.stdout.splitlines()[-1]) == (0, "would be shown")


def test_a_signed_event_is_checked_and_a_key_may_be_tried_in_its_place(tmp_path: Path) -> None:
    forged = orjson.loads(encode(note(ALICE, created_at=now())._replace(sig="0" * 128)))

    _, told = why(tmp_path, "", ["EVENT", forged])
    assert (told["rule"], told["reason"]) == ("Signature of the event", "invalid: signature does not verify")

    config = f'[relay.policies.lists]\nallow_keys = ["{BOB.public}"]'
    assert why(tmp_path, config, forged)[1]["rule"] == "Lists of keys, kinds, addresses and words"
    assert why(tmp_path, config, forged, "--as", BOB.public)[1]["taken"] is True


def test_an_event_may_stand_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "event.json"
    file.write_bytes(encode(note(ALICE, created_at=now())))

    assert torv(tmp_path, "", "why", str(file)).stdout.splitlines()[-1] == "would be taken"


@pytest.mark.parametrize("given", ["{", "[1]", "nowhere.json", '{"kind":-1}', '{"kinds":1}', "5"])
def test_what_is_neither_event_nor_filter_is_wrong_use(tmp_path: Path, given: str) -> None:
    result = torv(tmp_path, "", "why", given)

    assert (result.exit_code, result.stdout) == (2, "")


def store(folder: Path, *stored: Event) -> None:
    """Put events into the database of a relay that does not run."""

    async def write() -> None:
        (folder / "data").mkdir()
        opened = await open_store(f"sqlite:///{folder}/data/torv.sqlite3")
        await opened.write([Write(one, encode(one)) for one in stored])
        await opened.close()

    asyncio.run(write())


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[Path]:
    """A folder with four old notes of two authors, a second apart, and a profile."""
    notes = [note(ALICE, f"note {number}", created_at=1_000_000 + number) for number in range(3)]
    store(
        tmp_path,
        *notes,
        note(BOB, "Buy now", created_at=1_000_100, tags=[["-"]]),
        event(BOB, 0, "{}", created_at=5),
    )
    yield tmp_path


def test_a_dry_run_counts_by_rule_what_would_have_been_refused(stored: Path) -> None:
    config = (
        '[relay.policies.lists]\ndeny_words = ["buy now"]\n'
        '[relay.policies.rates]\nevents_per_key = ["1=2/minute"]\nevents_per_address = ["*=1/day"]\n'
        '[relay.policies.window]\nmax_age_seconds = ["*=60"]\n'
    )
    result = torv(stored, config, "dry-run", "--json")

    assert result.exit_code == 1, result.output
    told = orjson.loads(result.stdout)
    assert (told["events"], told["refused"]) == (5, 2)
    assert {one["rule"]: one["refused"] for one in told["rules"]} == {
        "Lists of keys, kinds, addresses and words": 1,
        "Rates by address, author and proved key": 1,
    }
    rates = next(one for one in told["rules"] if one["rule"].startswith("Rates"))
    # The third within a minute, by the events' own time.
    assert rates["examples"] == [
        {
            "id": note(ALICE, "note 2", created_at=1_000_002).id,
            "reason": "rate-limited: at most 2 a minute from one author of events of kind 1",
        }
    ]


def test_a_dry_run_asks_the_plugin_too(stored: Path) -> None:
    config = f'[relay.plugins.write]\ncommand = "{EXAMPLES}/allow.sh {BOB.public}"\nseconds = 30\n'
    result = torv(stored, config, "dry-run", "--json")

    told = orjson.loads(result.stdout)
    assert [(one["rule"], one["refused"]) for one in told["rules"]] == [("Write plugin", 3)]


def test_a_dry_run_of_defaults_refuses_nothing_that_is_stored(stored: Path) -> None:
    result = torv(stored, "", "dry-run")

    assert (result.exit_code, result.stdout) == (0, "0 of 5 stored events would have been refused\n")


def test_a_dry_run_may_look_at_some_events_only(stored: Path) -> None:
    config = '[relay.policies.lists]\ndeny_kinds = ["*"]\n'
    result = torv(stored, config, "dry-run", "--filter", '{"kinds":[0]}')

    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1] == "1 of 1 stored events would have been refused"


def test_what_is_stored_counts_for_why(stored: Path) -> None:
    known = orjson.loads(encode(note(ALICE, "note 0", created_at=1_000_000)))

    code, told = why(stored, "", known)

    assert (code, told["stored"]) == (0, True)
