"""NIP-43: joining by invite, leaving, and what the relay says of its members and roles."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from relay.config import RelayConfig
from relay.features.management.invites import Invite, encode_invite, read_invite
from relay.features.nip11 import limitation
from relay.nostr.event import check_event, decode, parse_event
from relay.nostr.keys import SecretKey
from relay.store.api import Outcome
from tests.events import ALICE, BOB, CAROL, DAVE, NOW, Clock, author, event, note, pubkey
from tests.features.managing import Office
from tests.net.house import RELAY_KEY, Client, House

A, B, C, D = (key.public for key in (ALICE, BOB, CAROL, DAVE))
WELCOME = (True, "info: welcome!")
INVALID = (False, "restricted: that is an invalid invite code.")


def settings(**members: object) -> RelayConfig:
    return RelayConfig.model_validate({"admins": [A], "members": {"enabled": True, **members}})


@pytest.fixture
async def house(clock: Clock) -> AsyncIterator[House]:
    """A relay with members that Alice administers."""
    async with House(clock, settings()) as running:
        yield running


@pytest.fixture
def office(house: House) -> Office:
    return Office(house)


async def connected(house: House, *keys: SecretKey) -> Client:
    """Return a connection on which these keys are proved."""
    client = await house.connect()
    for key in keys:
        assert await client.authenticate(key, house.clock()) == (True, "")
    return client


async def found(client: Client, **wanted: object) -> list[dict[str, Any]]:
    """Return the events that match."""
    answers = await client.request("REQ", "found", wanted)
    client.send("CLOSE", "found")
    return [answer[2] for answer in answers[:-1]]


async def members(client: Client) -> list[list[str]]:
    """Return what the list says, by key."""
    lists = await found(client, kinds=[13_534], authors=[RELAY_KEY.public])
    assert all(one["tags"][0] == ["-"] for one in lists)
    return sorted(tag[1:] for one in lists for tag in one["tags"][1:])


async def invite(house: House, key: SecretKey = ALICE) -> str:
    """Ask for an invite as this key; return its code."""
    (made,) = await found(await connected(house, key), kinds=[28_935])
    check_event(parse_event(made))
    assert (made["pubkey"], made["tags"][0]) == (RELAY_KEY.public, ["-"])
    name, code = made["tags"][1]
    assert name == "claim"
    return str(code)


async def join(house: House, key: SecretKey, code: str | None, *, age: int = 0) -> tuple[bool, str]:
    """Ask to join; return what the OK says."""
    client = await connected(house, key)
    tags = [["-"], *([["claim", code]] if code is not None else ())]
    return await client.publish(event(key, 28_934, created_at=house.clock() - age, tags=tags))


async def leave(house: House, key: SecretKey) -> tuple[bool, str]:
    client = await connected(house, key)
    return await client.publish(event(key, 28_936, created_at=house.clock(), tags=[["-"]]))


class TestJoining:
    """Kinds 28934, 28935 and 28936."""

    async def test_who_has_an_invite_joins_and_the_relay_says_so(self, house: House) -> None:
        reader = await house.connect()
        assert await join(house, BOB, await invite(house)) == WELCOME
        assert await members(reader) == [[B]]
        (added,) = await found(reader, kinds=[8000])
        assert (added["pubkey"], added["tags"]) == (RELAY_KEY.public, [["-"], ["p", B]])

    async def test_who_leaves_is_not_on_the_list(self, house: House) -> None:
        reader = await house.connect()
        await join(house, BOB, await invite(house))
        assert await leave(house, BOB) == (True, "info: you are not a member of this relay any more.")
        assert await members(reader) == []
        (removed,) = await found(reader, kinds=[8001])
        assert removed["tags"] == [["-"], ["p", B]]
        assert await leave(house, BOB) == (True, "duplicate: you are not a member of this relay.")

    async def test_requests_are_neither_kept_nor_passed_on(self, house: House) -> None:
        reader = await house.connect()
        await reader.subscribe("all", {"kinds": [28_934, 28_936]})
        await join(house, BOB, await invite(house))
        await leave(house, BOB)
        assert await reader.live() == []

    async def test_who_is_a_member_needs_no_invite(self, house: House) -> None:
        code = await invite(house)
        await join(house, BOB, code)
        already = (True, "duplicate: you are already a member of this relay.")
        assert await join(house, BOB, "whatever") == already

    async def test_an_invite_is_for_one(self, house: House) -> None:
        code = await invite(house)
        assert await join(house, BOB, code) == WELCOME
        assert await join(house, CAROL, code) == (False, "restricted: that invite code was used already.")

    async def test_of_two_who_use_it_at_once_one_wins(self, house: House) -> None:
        code = await invite(house)
        clients = [await connected(house, key) for key in (BOB, CAROL, DAVE)]
        requests = [
            event(key, 28_934, created_at=NOW, tags=[["-"], ["claim", code]]) for key in (BOB, CAROL, DAVE)
        ]
        for client, request in zip(clients, requests, strict=True):
            client.send_event(request)
        answers = [(await client.receive())[2] for client in clients]
        assert sorted(answers) == [False, False, True]
        assert len(await members(clients[0])) == 1

    async def test_an_invite_may_be_for_several(self, clock: Clock) -> None:
        async with House(clock, settings(invite_uses=2)) as house:
            code = await invite(house)
            assert await join(house, BOB, code) == WELCOME
            assert await join(house, CAROL, code) == WELCOME
            assert (await join(house, DAVE, code))[0] is False

    async def test_an_invite_ends(self, house: House, clock: Clock) -> None:
        code = await invite(house)
        clock.advance(604_801)
        assert await join(house, BOB, code) == (False, "restricted: that invite code is expired.")

    async def test_every_invite_is_another(self, house: House) -> None:
        assert await invite(house) != await invite(house)

    @pytest.mark.parametrize("code", ["", "x", "A" * 112, "é" * 112, "A" * 4_000])
    async def test_a_code_that_the_relay_did_not_make_is_refused(self, house: House, code: str) -> None:
        assert await join(house, BOB, code) == INVALID

    async def test_a_code_of_another_relay_is_refused(self, house: House) -> None:
        theirs = encode_invite(Invite(NOW, NOW + 60, 1, pubkey(ALICE), bytes(16)), BOB)
        assert await join(house, BOB, theirs) == INVALID

    async def test_a_request_names_a_code(self, house: House) -> None:
        assert await join(house, BOB, None) == (
            False,
            "invalid: a request to join takes a claim tag with an invite code",
        )

    async def test_a_request_is_of_now(self, house: House) -> None:
        code = await invite(house)
        for age in (601, -601):
            accepted, reason = await join(house, BOB, code, age=age)
            assert (accepted, reason) == (False, "invalid: created_at is more than 600 seconds off")

    async def test_others_cannot_send_a_request_again(self, house: House) -> None:
        await join(house, BOB, await invite(house))
        stranger = await connected(house, CAROL)
        protected = event(BOB, 28_936, created_at=NOW, tags=[["-"]])
        assert (await stranger.publish(protected))[1].startswith("restricted: ")
        plain = event(BOB, 28_936, created_at=NOW)
        assert await stranger.publish(plain) == (False, 'invalid: joining and leaving take a "-" tag')
        assert await members(stranger) == [[B]]

    async def test_there_are_so_many_members_and_no_more(self, clock: Clock) -> None:
        async with House(clock, settings(max_members=1)) as house:
            assert await join(house, BOB, await invite(house)) == WELCOME
            code = await invite(house)
            assert await join(house, CAROL, code) == (False, "restricted: there are 1 already")
            await leave(house, BOB)
            assert await join(house, CAROL, code) == WELCOME

    async def test_who_is_banned_is_no_member_and_does_not_join(self, house: House, office: Office) -> None:
        await join(house, BOB, await invite(house))
        code = await invite(house)
        await office.call(ALICE, "banpubkey", B)
        assert await members(await house.connect()) == []
        assert await join(house, BOB, code) == (
            False,
            "blocked: this event or its author is banned here",
        )

    def test_a_code_says_what_it_was_made_of(self) -> None:
        made = Invite(NOW, NOW + 60, 3, pubkey(ALICE), bytes(range(16)))
        code = encode_invite(made, RELAY_KEY)
        assert len(code) == 112
        assert read_invite(code, RELAY_KEY) == made
        for place in range(len(code)):
            changed = code[:place] + ("A" if code[place] != "A" else "B") + code[place + 1 :]
            assert read_invite(changed, RELAY_KEY) is None


class TestInviting:
    """Who is given an invite."""

    async def test_a_stranger_is_told_to_prove_a_key(self, house: House) -> None:
        client = await house.connect()
        asked = {"kinds": [28_935]}
        assert await client.refusal("REQ", asked) == "auth-required: only some may invite others here"
        await client.authenticate(BOB, NOW)
        assert await client.refusal("REQ", asked) == "restricted: only some may invite others here"

    async def test_a_question_for_other_kinds_too_is_answered_without_one(self, house: House) -> None:
        client = await house.connect()
        assert await found(client, kinds=[28_935, 1]) == []

    async def test_holders_of_a_role_invite_until_it_is_taken(self, clock: Clock) -> None:
        async with House(clock, settings(inviting_roles=["greeter"])) as house:
            office = Office(house)
            await office.call(ALICE, "createrole", "greeter")
            await office.call(ALICE, "allowpubkey", B)
            client = await connected(house, BOB)
            assert (await client.refusal("REQ", {"kinds": [28_935]})).startswith("restricted: ")
            await office.call(ALICE, "assignrole", B, "greeter")
            used, unused = await invite(house, BOB), await invite(house, BOB)
            assert await join(house, CAROL, used) == WELCOME
            await office.call(ALICE, "unassignrole", B, "greeter")
            assert await join(house, DAVE, unused) == INVALID

    async def test_every_member_may_invite_where_the_operator_wants_it_so(self, clock: Clock) -> None:
        async with House(clock, settings(inviting_roles=["*"])) as house:
            await join(house, BOB, await invite(house))
            assert await join(house, CAROL, await invite(house, BOB)) == WELCOME
            client = await connected(house, DAVE)
            assert (await client.refusal("REQ", {"kinds": [28_935]})).startswith("restricted: ")

    async def test_an_invite_is_neither_kept_nor_shown_to_others(self, house: House) -> None:
        client = await connected(house, ALICE)
        other = await house.connect()
        await other.subscribe("all", {})
        await client.subscribe("invites", {"kinds": [28_935]})
        assert await other.live() == []
        assert await client.count({}) == 0


class TestList:
    """Kinds 13534 and 33534, and what administrators change."""

    async def test_members_are_added_and_removed_by_administrators(
        self, house: House, office: Office
    ) -> None:
        client = await house.connect()
        await office.call(ALICE, "allowpubkey", B, "a friend")
        await office.call(ALICE, "allowpubkey", C)
        assert await office.call(ALICE, "listallowedpubkeys") == sorted(
            [{"pubkey": B, "reason": "a friend"}, {"pubkey": C, "reason": ""}], key=lambda one: one["pubkey"]
        )
        assert await members(client) == sorted([[B], [C]])
        await office.call(ALICE, "unallowpubkey", B)
        assert await members(client) == [[C]]
        assert await office.refusal(ALICE, "unallowpubkey", B) == "invalid: this key is not a member's"

    async def test_the_relay_defines_roles_and_lists_who_has_them(self, house: House, office: Office) -> None:
        client = await house.connect()
        await office.call(ALICE, "createrole", "28b7e50f", "king", "ruler of the relay", 37, 1)
        (role,) = await found(client, kinds=[33_534])
        assert role["pubkey"] == RELAY_KEY.public
        assert role["tags"] == [
            ["-"],
            ["d", "28b7e50f"],
            ["label", "king"],
            ["description", "ruler of the relay"],
            ["color", "37"],
            ["order", "1"],
        ]
        await office.call(ALICE, "createrole", "plain")
        await office.call(ALICE, "allowpubkey", B)
        await office.call(ALICE, "assignrole", B, "28b7e50f")
        await office.call(ALICE, "assignrole", B, "plain")
        assert await members(client) == [[B, "28b7e50f", "plain"]]
        await office.call(ALICE, "unassignrole", B, "28b7e50f")
        assert await members(client) == [[B, "plain"]]

    async def test_a_role_changes_in_the_same_second(self, house: House, office: Office) -> None:
        client = await house.connect()
        await office.call(ALICE, "createrole", "x", "first")
        await office.call(ALICE, "editrole", "x", "second")
        (role,) = await found(client, kinds=[33_534])
        assert role["tags"] == [["-"], ["d", "x"], ["label", "second"]]

    async def test_a_deleted_role_is_taken_from_all_who_have_it(self, house: House, office: Office) -> None:
        client = await house.connect()
        await office.call(ALICE, "createrole", "x")
        await office.call(ALICE, "allowpubkey", B)
        await office.call(ALICE, "assignrole", B, "x")
        await office.call(ALICE, "deleterole", "x")
        assert await members(client) == [[B]]
        assert await found(client, kinds=[33_534]) == []
        await office.call(ALICE, "createrole", "x", "anew")
        assert await members(client) == [[B]]
        assert len(await found(client, kinds=[33_534])) == 1

    async def test_who_leaves_loses_all_roles(self, house: House, office: Office) -> None:
        await office.call(ALICE, "createrole", "x")
        await office.call(ALICE, "allowpubkey", B)
        await office.call(ALICE, "assignrole", B, "x")
        await leave(house, BOB)
        await office.call(ALICE, "allowpubkey", B)
        assert await members(await house.connect()) == [[B]]

    async def test_the_list_follows_when_members_come_faster_than_seconds(
        self, house: House, office: Office, clock: Clock
    ) -> None:
        client = await house.connect()
        keys = sorted(author(f"member {n}").public for n in range(40))
        for key in keys:
            await office.call(ALICE, "allowpubkey", key)
        assert len(await members(client)) < 40
        clock.advance(60)
        await office.work()
        assert await members(client) == [[key] for key in keys]
        (listed,) = await found(client, kinds=[13_534])
        assert listed["created_at"] <= clock()

    async def test_used_invites_are_forgotten_after_their_end(
        self, house: House, office: Office, clock: Clock
    ) -> None:
        await join(house, BOB, await invite(house))
        await office.work()
        assert len(house.desk.records("management", "claimed/")) == 1
        clock.advance(604_801)
        await office.work()
        assert house.desk.records("management", "claimed/") == []


class TestVanishing:
    """Who asks to vanish (NIP-62) is no member any more, and nothing says that they were."""

    async def test_membership_and_roles_end(self, house: House, office: Office) -> None:
        await join(house, BOB, await invite(house))
        await join(house, CAROL, await invite(house))
        await office.call(ALICE, "createrole", "greeter", "Greeter", "", "", "")
        await office.call(ALICE, "assignrole", B, "greeter")

        assert await vanish(house, BOB) == (True, "")

        client = await house.connect()
        assert await members(client) == [[C]]
        assert [one["pubkey"] for one in await office.call(ALICE, "listallowedpubkeys")] == [C]
        assert await office.refusal(ALICE, "assignrole", B, "greeter") == (
            "invalid: this key is not a member's; allow it first"
        )

    async def test_nothing_that_the_relay_keeps_names_them(self, house: House) -> None:
        await join(house, BOB, await invite(house))
        await leave(house, BOB)
        await join(house, BOB, await invite(house))
        assert len(await found(await house.connect(), kinds=[8_000, 8_001], **{"#p": [B]})) == 2

        await vanish(house, BOB)

        exported = [
            json async for page in house.store.dump(upto=await house.store.head(), now=NOW) for json in page
        ]
        assert [decode(json).kind for json in exported if B.encode() in json] == [62]

    async def test_what_an_import_brings_back_of_them_stays_out(self, house: House) -> None:
        await join(house, BOB, await invite(house))
        (said,) = await found(await house.connect(), kinds=[8_000])
        await vanish(house, BOB)

        write = house.relay.admission.effects(parse_event(said), live=False)

        assert await house.store.write([write]) == [Outcome.DELETED]

    async def test_a_member_cannot_delete_what_the_relay_said(self, house: House) -> None:
        await join(house, BOB, await invite(house))
        (said,) = await found(await house.connect(), kinds=[8_000])

        client = await connected(house, BOB)
        await client.publish(event(BOB, 5, tags=[["e", said["id"]]]))

        assert await found(client, kinds=[8_000]) == [said]

    async def test_invites_that_they_made_are_void_also_when_they_come_back(self, clock: Clock) -> None:
        async with House(clock, settings(inviting_roles=["*"])) as house:
            office = Office(house)
            await office.call(ALICE, "allowpubkey", B)
            before = await invite(house, BOB)
            await vanish(house, BOB)
            assert await join(house, CAROL, before) == INVALID

            clock.advance(1)
            await office.call(ALICE, "allowpubkey", B)
            assert await join(house, CAROL, before) == INVALID
            assert await join(house, CAROL, await invite(house, BOB)) == WELCOME

    async def test_what_came_after_the_request_stays(self, house: House, clock: Clock) -> None:
        await join(house, BOB, await invite(house))

        await vanish(house, BOB, at=NOW - 1)

        assert await members(await house.connect()) == [[B]]


async def vanish(house: House, key: SecretKey, *, at: int = NOW) -> tuple[bool, str]:
    client = await house.connect()
    return await client.publish(event(key, 62, created_at=at, tags=[["relay", "ALL_RELAYS"]]))


class TestWriting:
    """`members.write`."""

    async def test_only_members_and_administrators_publish(self, clock: Clock) -> None:
        async with House(clock, settings(write=True)) as house:
            client = await house.connect()
            only = "only members publish here"
            assert await client.publish(note(BOB)) == (False, f"auth-required: {only}")
            assert await client.publish(note(ALICE)) == (True, "")
            await client.authenticate(BOB, NOW)
            assert await client.publish(note(BOB)) == (False, f"restricted: {only}")
            await join(house, BOB, await invite(house))
            assert await client.publish(note(BOB)) == (True, "")
            await leave(house, BOB)
            assert await client.publish(note(BOB, "again")) == (False, f"restricted: {only}")

    async def test_a_member_may_publish_what_another_key_has_signed(self, clock: Clock) -> None:
        async with House(clock, settings(write=True)) as house:
            await join(house, BOB, await invite(house))
            client = await connected(house, BOB)
            assert await client.publish(event(CAROL, 1059, tags=[["p", D]])) == (True, "")

    async def test_the_information_document_says_so(self, clock: Clock) -> None:
        for write in (False, True):
            async with House(clock, settings(write=write)) as house:
                assert limitation(house.relay.features)["restricted_writes"] is write


async def test_without_members_requests_are_ephemeral_events_like_others(clock: Clock) -> None:
    async with House(clock, alone=False) as house:
        client = await connected(house, BOB)
        assert await client.publish(event(BOB, 28_934, created_at=NOW, tags=[["-"]])) == (True, "")
        assert await found(client, kinds=[28_935]) == []
        assert 43 not in [feature.nip for feature in house.relay.features]
