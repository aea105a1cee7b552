"""Lists of keys, kinds, addresses and words, in the settings and in files."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from relay.config import RelayConfig
from relay.engine.feature import Context, Feature
from relay.nostr.event import Event, PubKey
from relay.nostr.keys import SecretKey
from relay.nostr.nip19 import Npub, encode
from relay.policies import lists
from relay.policies.phrases import Phrases
from tests.events import ALICE, BOB, NOW, Clock, event, note
from tests.net.house import RELAY_KEY, House

NOT_ALLOWED = (False, "restricted: only the keys on the relay's list publish here")
DENIED = (False, "blocked: this key may not publish here")


def config(**lists: object) -> RelayConfig:
    return RelayConfig.model_validate({"policies": {"lists": lists}})


def npub(key: SecretKey) -> str:
    return encode(Npub(PubKey(key.public)))


async def answers(settings: RelayConfig, clock: Clock, *published: Event) -> list[tuple[bool, str]]:
    async with House(clock, settings) as house:
        client = await house.connect()
        return [await client.publish(one) for one in published]


async def test_a_denied_key_is_refused_and_nobody_else(clock: Clock) -> None:
    said = await answers(config(deny_keys=[npub(ALICE)]), clock, note(ALICE), note(BOB))

    assert said == [DENIED, (True, "")]


async def test_with_a_list_of_keys_only_those_publish(clock: Clock) -> None:
    assert await answers(config(allow_keys=[ALICE.public]), clock, note(ALICE), note(BOB)) == [
        (True, ""),
        NOT_ALLOWED,
    ]


async def test_whoever_proved_an_allowed_key_may_bring_the_events_of_others(clock: Clock) -> None:
    async with House(clock, config(allow_keys=[ALICE.public])) as house:
        client = await house.connect()
        await client.authenticate(ALICE, NOW)

        assert await client.publish(note(BOB)) == (True, "")


async def test_strangers_may_write_to_an_allowed_key_and_to_nobody_else(clock: Clock) -> None:
    to_alice, to_bob = (event(BOB, 1059, tags=[["p", key.public]]) for key in (ALICE, BOB))

    assert await answers(config(allow_keys=[ALICE.public]), clock, to_alice, to_bob) == [
        (True, ""),
        NOT_ALLOWED,
    ]


async def test_admins_publish_whatever_list_there_is(clock: Clock) -> None:
    settings = RelayConfig.model_validate(
        {"admins": [BOB.public], "policies": {"lists": {"allow_keys": [ALICE.public]}}}
    )

    assert await answers(settings, clock, note(BOB)) == [(True, "")]


async def test_a_request_to_vanish_needs_no_place_on_a_list(clock: Clock) -> None:
    vanishing = event(BOB, 62, tags=[["relay", "ALL_RELAYS"]])

    assert await answers(config(allow_keys=[ALICE.public], allow_kinds=["1"]), clock, vanishing) == [
        (True, "")
    ]


@pytest.mark.parametrize(
    ("lists", "taken", "refused"),
    [
        ({"allow_kinds": [1, "30000-30009"]}, [1, 30_000, 30_009], [7, 30_010]),
        ({"deny_kinds": ["4", "20000-29999"]}, [1, 5, 30_000], [4, 20_000, 29_999]),
        ({"allow_kinds": ["1-9"], "deny_kinds": ["7"]}, [1, 6], [7, 10]),
    ],
)
async def test_kinds_are_taken_and_refused_by_ranges(
    clock: Clock, lists: dict[str, object], taken: Sequence[int], refused: Sequence[int]
) -> None:
    said = await answers(
        config(**lists),
        clock,
        *(event(ALICE, kind, tags=[["d", "x"], ["e", "0" * 64]]) for kind in (*taken, *refused)),
    )

    assert [accepted for accepted, _ in said] == [True] * len(taken) + [False] * len(refused)
    assert {reason for _, reason in said[len(taken) :]} == {
        f"blocked: kind {kind} is not taken here" for kind in refused
    }


@pytest.mark.parametrize(
    ("lists", "address", "is_served"),
    [
        ({"deny_addresses": ["192.0.2.0/24"]}, "192.0.2.255", False),
        ({"deny_addresses": ["192.0.2.0/24"]}, "192.0.3.0", True),
        ({"deny_addresses": ["192.0.2.0/24"]}, "::ffff:192.0.2.7", False),
        ({"deny_addresses": ["2001:db8::/32"]}, "2001:db8:ffff::1", False),
        ({"deny_addresses": ["2001:db8::/32"]}, "2001:db9::1", True),
        ({"allow_addresses": ["192.0.2.7"]}, "192.0.2.7", True),
        ({"allow_addresses": ["192.0.2.7"]}, "192.0.2.8", False),
        ({"allow_addresses": ["0.0.0.0/0"], "deny_addresses": ["10.0.0.0/8"]}, "10.1.2.3", False),
    ],
)
async def test_addresses_are_served_by_networks(
    clock: Clock, lists: dict[str, object], address: str, is_served: bool
) -> None:
    async with House(clock, config(**lists)) as house:
        assert house.relay.turns_away(address) is not is_served


@pytest.mark.parametrize(
    "text",
    ["Buy NOW!", "you can buy\n\nnow", "(ｂｕｙ　ｎｏｗ)", "BÚY, nów.", "jetzt: buy—now"],
)
async def test_phrases_are_found_however_they_are_written(clock: Clock, text: str) -> None:
    assert await answers(config(deny_words=["buy  now"]), clock, note(ALICE, text)) == [
        (False, "blocked: 'buy now' is not welcome here")
    ]


@pytest.mark.parametrize("text", ["buy nowhere", "rebuy now", "buy it now", "now buy", ""])
async def test_parts_of_words_and_other_orders_are_not_found(clock: Clock, text: str) -> None:
    assert await answers(config(deny_words=["buy now"]), clock, note(ALICE, text)) == [(True, "")]


async def test_words_are_looked_for_in_tags_too_but_not_across_them(clock: Clock) -> None:
    settings = config(deny_words=["buy now"])

    said = await answers(
        settings, clock, note(ALICE, tags=[["t", "Buy Now"]]), note(ALICE, tags=[["t", "buy"], ["t", "now"]])
    )

    assert [accepted for accepted, _ in said] == [False, True]


async def test_what_is_encrypted_is_not_looked_into(clock: Clock) -> None:
    wrap = event(ALICE, 1059, "abc/buy/xyz==", tags=[["p", BOB.public]])

    assert await answers(config(deny_words=["buy"]), clock, wrap) == [(True, "")]


@pytest.mark.parametrize(
    ("phrase", "text"),
    [
        ("免费", "现在免费领取"),
        ("タダ", "今ならﾀﾀﾞです"),
        ("ฟรี", "แจกฟรีวันนี้"),
        ("STRASSE", "in der Straße 7"),
        ("дешёво", "Очень ДЕШЁВО!"),
        ("हिन्दी", "यह हिन्दी है"),
    ],
)
def test_phrases_of_all_scripts_are_found(phrase: str, text: str) -> None:
    assert Phrases([phrase]).found_in([text]) == phrase


def test_thousands_of_phrases_are_told_apart() -> None:
    phrases = Phrases(f"word{number} follows" for number in range(20_000))

    assert phrases.found_in(["here word19999 follows"]) == "word19999 follows"
    assert phrases.found_in(["here word19999 does not"]) is None


async def kept_up(house: House) -> None:
    """Do what every process does from time to time."""
    for job in (job for one in house.relay.features for job in one.jobs if job.everywhere):
        await job.run(NOW)


async def test_a_list_in_a_file_counts_as_soon_as_it_changes(clock: Clock, tmp_path: Path) -> None:
    file = tmp_path / "denied.txt"
    file.write_text(f"# who may not\n\n{npub(ALICE)}\n")
    async with House(clock, config(deny_keys_files=[file])) as house:
        client = await house.connect()
        assert await client.publish(note(ALICE)) == DENIED
        assert await client.publish(note(BOB, "1")) == (True, "")

        file.write_text(f"{BOB.public}\n")
        await kept_up(house)

        assert await client.publish(note(ALICE)) == (True, "")
        assert await client.publish(note(BOB, "2")) == DENIED


async def test_a_list_with_a_mistake_stays_as_it_was_and_the_mistake_is_told(
    clock: Clock, tmp_path: Path
) -> None:
    file = tmp_path / "denied.txt"
    file.write_text(f"{ALICE.public}\n")
    async with House(clock, config(deny_keys_files=[file])) as house:
        client = await house.connect()

        file.write_text(f"{BOB.public}\nnpub1nobody\n")
        with capture_logs() as logs:
            await kept_up(house)
            await kept_up(house)

        assert await client.publish(note(ALICE)) == DENIED
        assert await client.publish(note(BOB)) == (True, "")
        # Once, not every two seconds.
        (told,) = (log for log in logs if log["event"] == "a list has a mistake")
        assert told["list"] == "deny_keys"
        assert told["mistake"].startswith(f"{file}:2: expected npub1… or 64 lowercase hex digits")


async def test_a_list_that_is_gone_stays_as_it_was(clock: Clock, tmp_path: Path) -> None:
    file = tmp_path / "allowed.txt"
    file.write_text(f"{ALICE.public}\n")
    async with House(clock, config(allow_keys_files=[file])) as house:
        client = await house.connect()

        file.unlink()
        await kept_up(house)

        assert await client.publish(note(ALICE)) == (True, "")
        assert await client.publish(note(BOB)) == NOT_ALLOWED


async def test_a_long_list_is_read_while_others_are_served(clock: Clock, tmp_path: Path) -> None:
    file = tmp_path / "denied.txt"
    file.write_text("")
    async with House(clock, config(deny_keys_files=[file])) as house:
        client = await house.connect()
        file.write_text("".join(f"{number:064x}\n" for number in range(200_000)) + f"{ALICE.public}\n")

        reading = asyncio.ensure_future(kept_up(house))
        answered = await client.publish(note(BOB))

        assert (answered, reading.done()) == ((True, ""), False)
        await reading
        assert await client.publish(note(ALICE)) == DENIED


def test_without_lists_there_is_nothing_to_ask() -> None:
    assert lists.feature(RelayConfig(), Context(key=RELAY_KEY)) == Feature(
        title="Lists of keys, kinds, addresses and words"
    )
