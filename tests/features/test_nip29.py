"""NIP-29: who may do what in a group, and what the relay says of it."""

from collections.abc import AsyncIterator

import pytest

from relay.config import RelayConfig
from relay.engine.feature import Context
from relay.features.nip11 import document
from relay.nostr.event import decode
from tests.events import ALICE, BOB, CAROL, DAVE, NOW, Clock, author, event, note
from tests.features.groups import Group, events, sent
from tests.features.test_nip77 import reconcile
from tests.net.house import RELAY_KEY, Client, House

A, B, C, D = (key.public for key in (ALICE, BOB, CAROL, DAVE))
EVE = author("eve")


async def catch_up(house: House) -> None:
    """Let the relay do what it does every few seconds."""
    house.relay.catch_up()
    for feature in house.relay.features:
        for job in feature.jobs:
            if feature.nip == 29:
                await job.run(house.clock())


async def needed(client: Client, wanted: dict[str, object]) -> int:
    """Return how many events a reconciliation offers to who has none."""
    return len((await reconcile(client, wanted=wanted)).need)


@pytest.fixture
async def pizza(client: Client) -> Group:
    """A group that Alice has created."""
    group = Group(client)
    await group.do(ALICE, 9007)
    return group


@pytest.fixture
async def house(clock: Clock) -> AsyncIterator[House]:
    """A relay on which Eve is an administrator."""
    config = RelayConfig.model_validate({"admins": [EVE.public], "groups": {"created_per_minute": 0}})
    async with House(clock, config) as running:
        yield running


class TestCreation:
    """Kind 9007."""

    async def test_who_creates_a_group_owns_it_and_the_relay_says_so(self, pizza: Group) -> None:
        assert await pizza.notice(39000) == []
        assert await pizza.roles() == {"alice": ["owner"]}
        assert await pizza.members() == ["alice"]
        assert [tag[:2] for tag in await pizza.notice(39003) or ()] == [
            ["role", "owner"],
            ["role", "admin"],
            ["role", "moderator"],
        ]
        assert await pizza.notice(39005) is None
        assert await pizza.history(9000) == [(9000, "relay", ["alice", "owner"])]
        (said,) = await events(pizza.client, {"kinds": [39000]})
        assert said["pubkey"] == RELAY_KEY.public

    async def test_a_group_is_created_once(self, pizza: Group) -> None:
        assert await pizza.refusal(BOB, 9007) == "duplicate: there is a group with this id"

    @pytest.mark.parametrize("id_", ["", "a\nb", "x" * 129])
    async def test_an_id_is_short_and_printable(self, client: Client, id_: str) -> None:
        assert (await Group(client, id_).refusal(ALICE, 9007)).startswith("invalid: an h tag names the group")

    async def test_an_id_may_be_anything_else(self, client: Client) -> None:
        group = Group(client, "m/a:b c.æ_%")
        await group.do(ALICE, 9007)
        await group.do(BOB, 9021)
        assert await group.members() == ["alice", "bob"]

    async def test_one_key_has_so_many_groups_and_no_more(self, clock: Clock) -> None:
        config = RelayConfig.model_validate({"groups": {"max_created": 2, "created_per_minute": 0}})
        async with House(clock, config) as house:
            client = await house.connect()
            for id_ in ("a", "b"):
                await Group(client, id_).do(ALICE, 9007)
            assert await Group(client, "c").refusal(ALICE, 9007) == (
                "restricted: one key may have 2 groups here"
            )
            await Group(client, "c").do(BOB, 9007)
            await Group(client, "a").do(ALICE, 9008)
            await Group(client, "d").do(ALICE, 9007)

    async def test_one_address_creates_so_many_in_a_minute(self, clock: Clock) -> None:
        async with House(clock) as house:
            client = await house.connect()
            for id_ in ("a", "b"):
                await Group(client, id_).do(author(id_), 9007)
            assert await Group(client, "c").refusal(author("c"), 9007) == (
                "rate-limited: at most 2 new groups a minute from one address"
            )

    async def test_only_administrators_create_groups_where_the_operator_wants_it_so(
        self, clock: Clock
    ) -> None:
        config = RelayConfig.model_validate({"admins": [B], "groups": {"anybody_creates": False}})
        async with House(clock, config) as house:
            client = await house.connect()
            assert await Group(client).refusal(ALICE, 9007) == (
                "restricted: only the relay's administrators create groups here"
            )
            await Group(client).do(BOB, 9007)

    async def test_where_groups_are_off_their_events_are_like_all_others(self, clock: Clock) -> None:
        async with House(clock, RelayConfig.model_validate({"groups": {"enabled": False}})) as house:
            client = await house.connect()
            await Group(client).do(BOB, 9000, ["p", A])
            assert await events(client, {"kinds": [39000]}) == []


class TestElsewhere:
    """Events of groups that are not here, and what only the relay says."""

    async def test_what_is_said_in_a_group_of_another_relay_is_kept_like_all_else(
        self, client: Client
    ) -> None:
        elsewhere = Group(client, "elsewhere")
        await elsewhere.do(ALICE, 9, content="hello")
        assert await client.find({"#h": ["elsewhere"]}) == ["hello"]

    @pytest.mark.parametrize("kind", [9000, 9001, 9002, 9005, 9008, 9009, 9010, 9020, 9021, 9022])
    async def test_there_is_nothing_to_manage_in_it(self, client: Client, kind: int) -> None:
        assert await Group(client, "elsewhere").refusal(ALICE, kind, ["p", B]) == (
            "blocked: there is no such group on this relay"
        )

    @pytest.mark.parametrize("kind", [39000, 39001, 39002, 39003, 39004, 39005])
    async def test_nobody_speaks_for_the_relay(self, pizza: Group, kind: int) -> None:
        for key in (ALICE, EVE, RELAY_KEY):
            said = event(key, kind, created_at=NOW + 5, tags=[["d", "pizza"]])
            assert await pizza.client.publish(said) == (
                False,
                "blocked: only the relay itself publishes what it knows of its groups",
            )

    async def test_an_event_is_of_one_group(self, pizza: Group) -> None:
        both = event(ALICE, 9, tags=[["h", "pizza"], ["h", "pasta"]])
        assert await pizza.client.publish(both) == (False, "invalid: an event is sent to one group only")
        many = event(ALICE, 9, tags=[["h", str(n)] for n in range(9)])
        assert await pizza.client.publish(many) == (False, "invalid: an event is sent to one group only")

    async def test_a_group_is_managed_by_name(self, client: Client) -> None:
        accepted, reason = await client.publish(event(ALICE, 9007))
        assert (accepted, reason[:27]) == (False, "invalid: an h tag names the")

    async def test_unknown_moderation_is_refused(self, pizza: Group) -> None:
        assert await pizza.refusal(ALICE, 9003) == (
            "unsupported: this relay knows no moderation event of kind 9003"
        )

    async def test_the_document_says_that_there_are_subgroups(self, house: House) -> None:
        told = document(house.config, Context(key=RELAY_KEY), house.relay.features)

        assert told["nip29"] == {"subgroups": True}


class TestJoining:
    """Kinds 9021 and 9022, and invites (9009)."""

    async def test_who_asks_is_let_in(self, pizza: Group) -> None:
        await pizza.do(BOB, 9021)
        assert await pizza.members() == ["alice", "bob"]
        assert await pizza.roles() == {"alice": ["owner"]}
        assert await pizza.history(9000) == [(9000, "relay", ["alice", "owner"]), (9000, "relay", ["bob"])]

    async def test_who_is_in_cannot_join(self, pizza: Group) -> None:
        assert await pizza.refusal(ALICE, 9021) == "duplicate: you are a member of this group"

    async def test_who_leaves_is_removed_by_the_relay(self, pizza: Group) -> None:
        await pizza.do(BOB, 9021)
        await pizza.do(BOB, 9022)
        assert await pizza.members() == ["alice"]
        assert (await pizza.history(9001)) == [(9001, "relay", ["bob"])]
        assert await pizza.refusal(BOB, 9022, at=NOW + 1) == "duplicate: you are not a member of this group"

    async def test_what_the_relay_says_of_a_member_is_in_order_of_time(self, pizza: Group) -> None:
        await pizza.do(BOB, 9021)
        await pizza.do(BOB, 9022)
        await pizza.do(BOB, 9021, content="again")
        found = await events(pizza.client, {"#p": [B], "kinds": [9000, 9001]})
        assert [(one["kind"], one["created_at"]) for one in found] == [
            (9000, NOW + 2),
            (9001, NOW + 1),
            (9000, NOW),
        ]

    async def test_a_closed_group_lets_nobody_in_by_themselves(self, pizza: Group) -> None:
        await pizza.do(ALICE, 9002, ["closed"])
        assert await pizza.refusal(BOB, 9021) == (
            "restricted: this group is closed; ask one of its admins for an invite"
        )
        await pizza.do(ALICE, 9000, ["p", B])
        assert await pizza.members() == ["alice", "bob"]

    async def test_an_invite_lets_one_in(self, pizza: Group) -> None:
        await pizza.do(ALICE, 9002, ["closed"])
        await pizza.do(ALICE, 9009, ["code", "sesame"])
        await pizza.do(BOB, 9021, ["code", "sesame"])
        assert await pizza.refusal(CAROL, 9021, ["code", "sesame"]) == (
            "restricted: this invite is not known, or was used"
        )
        assert await pizza.members() == ["alice", "bob"]

    async def test_of_two_who_use_an_invite_at_once_one_gets_in(self, pizza: Group) -> None:
        await pizza.do(ALICE, 9002, ["closed"])
        await pizza.do(ALICE, 9009, ["code", "sesame"])
        both = [sent(key, 9021, ["code", "sesame"]) for key in (BOB, CAROL)]
        pizza.client.send_at_once(*(["EVENT", one._asdict()] for one in both))
        answers = [await pizza.client.receive() for _ in both]
        assert sorted(answer[2] for answer in answers) == [False, True]
        assert len(await pizza.members()) == 2

    async def test_an_invite_is_gone_with_its_event(self, pizza: Group) -> None:
        invite = sent(ALICE, 9009, ["code", "sesame"])
        assert await pizza.client.publish(invite) == (True, "")
        assert await pizza.refusal(ALICE, 9009, ["code", "sesame"], at=NOW + 1) == (
            "duplicate: there is an invite with this code"
        )
        await pizza.client.publish(event(ALICE, 5, tags=[["e", invite.id]]))
        assert await pizza.refusal(BOB, 9021, ["code", "sesame"]) == (
            "restricted: this invite is not known, or was used"
        )
        await pizza.do(ALICE, 9009, ["code", "sesame"], at=NOW + 1)

    @pytest.mark.parametrize(
        "tags", [[], [["code"]], [["code", ""]], [["code", "a\nb"]], [["code", "x" * 129]]]
    )
    async def test_an_invite_has_a_code(self, pizza: Group, tags: list[list[str]]) -> None:
        assert await pizza.refusal(ALICE, 9009, *tags) == (
            "invalid: a code tag holds 1 to 128 printable characters"
        )

    async def test_who_was_removed_does_not_come_back_uninvited(self, pizza: Group) -> None:
        await pizza.do(BOB, 9021)
        await pizza.do(ALICE, 9001, ["p", B])
        assert await pizza.refusal(BOB, 9021, at=NOW + 1) == (
            "restricted: you were removed; ask one of the group's admins for an invite"
        )
        await pizza.do(ALICE, 9009, ["code", "sesame"])
        await pizza.do(BOB, 9021, ["code", "sesame"])
        assert await pizza.members() == ["alice", "bob"]

    async def test_a_full_group_lets_nobody_in(self, clock: Clock) -> None:
        async with House(clock, RelayConfig.model_validate({"groups": {"max_members": 2}})) as house:
            group = Group(await house.connect())
            await group.do(ALICE, 9007)
            await group.do(BOB, 9021)
            assert await group.refusal(CAROL, 9021) == "restricted: the group is full"
            assert await group.refusal(ALICE, 9000, ["p", C]) == "restricted: the group is full"
            await group.do(ALICE, 9000, ["p", B, "moderator"])

    async def test_only_admins_invite(self, pizza: Group) -> None:
        await pizza.do(ALICE, 9000, ["p", B, "moderator"])
        assert await pizza.refusal(BOB, 9009, ["code", "sesame"]) == (
            "restricted: your role in this group does not allow this"
        )

    async def test_only_admins_see_invites(self, house: House, pizza: Group) -> None:
        await pizza.do(ALICE, 9009, ["code", "sesame"])
        await pizza.do(BOB, 9021)
        assert (await pizza.client.refusal("REQ", {"kinds": [9009]})).startswith("auth-required: ")
        for key, count in ((BOB, 0), (ALICE, 1)):
            reader = await house.connect()
            await reader.authenticate(key, NOW)
            assert len(await reader.find({"kinds": [9009]})) == count
            assert await reader.count({"#h": ["pizza"], "kinds": [9009, 9007]}) == count + 1


class TestRoles:
    """Kinds 9000 and 9001: nobody lifts themselves."""

    async def test_an_owner_gives_any_role_and_takes_it(self, pizza: Group) -> None:
        await pizza.do(
            ALICE, 9000, ["p", B, "admin"], ["p", C, "moderator", "gardener"], ["p", D, "gardener"]
        )
        assert await pizza.roles() == {
            "alice": ["owner"],
            "bob": ["admin"],
            "carol": ["moderator", "gardener"],
        }
        assert await pizza.members() == ["alice", "bob", "carol", "dave"]
        await pizza.do(ALICE, 9000, ["p", B], at=NOW + 1)
        assert await pizza.roles() == {"alice": ["owner"], "carol": ["moderator", "gardener"]}
        assert await pizza.members() == ["alice", "bob", "carol", "dave"]

    async def test_an_admin_names_those_below_and_no_others(self, pizza: Group) -> None:
        not_above = "restricted: your role in this group is not above theirs"
        await pizza.do(ALICE, 9000, ["p", B, "admin"], ["p", C, "admin"])
        await pizza.do(BOB, 9000, ["p", D, "moderator"])
        assert await pizza.refusal(BOB, 9000, ["p", D, "admin"]) == not_above
        assert await pizza.refusal(BOB, 9000, ["p", A]) == not_above
        assert await pizza.refusal(BOB, 9000, ["p", C, "moderator"]) == not_above
        assert await pizza.refusal(BOB, 9001, ["p", C]) == not_above
        assert await pizza.refusal(BOB, 9001, ["p", D], ["p", A]) == not_above
        assert await pizza.members() == ["alice", "bob", "carol", "dave"]

    async def test_nobody_lifts_themselves(self, pizza: Group) -> None:
        await pizza.do(ALICE, 9000, ["p", B, "admin"])
        assert await pizza.refusal(BOB, 9000, ["p", B, "admin", "owner"]) == (
            "restricted: nobody may give themselves a higher role"
        )
        await pizza.do(BOB, 9000, ["p", B, "moderator"], at=NOW + 1)
        assert await pizza.refusal(BOB, 9000, ["p", B, "admin"], at=NOW + 2) == (
            "restricted: your role in this group does not allow this"
        )
        assert await pizza.roles() == {"alice": ["owner"], "bob": ["moderator"]}

    async def test_one_bad_name_in_a_list_changes_nothing(self, pizza: Group) -> None:
        await pizza.do(ALICE, 9000, ["p", B, "admin"])
        refusal = await pizza.refusal(BOB, 9000, ["p", C], ["p", D, "owner"])
        assert refusal == "restricted: your role in this group is not above theirs"
        assert await pizza.members() == ["alice", "bob"]
        assert (await pizza.history(9000))[1:] == [(9000, "alice", ["bob", "admin"])]

    async def test_a_moderator_removes_members_and_adds_none(self, pizza: Group) -> None:
        await pizza.do(ALICE, 9000, ["p", B, "moderator"], ["p", C])
        await pizza.do(BOB, 9001, ["p", C])
        assert await pizza.members() == ["alice", "bob"]
        for kind in (9000, 9002, 9008, 9009):
            assert await pizza.refusal(BOB, kind, ["p", C]) == (
                "restricted: your role in this group does not allow this"
            )

    @pytest.mark.parametrize("kind", [9000, 9001, 9002, 9005, 9008, 9009, 9010])
    async def test_strangers_and_plain_members_moderate_nothing(self, pizza: Group, kind: int) -> None:
        await pizza.do(BOB, 9021)
        for key in (BOB, CAROL):
            assert await pizza.refusal(key, kind, ["p", key.public]) == (
                "restricted: your role in this group does not allow this"
            )

    async def test_the_relay_and_its_administrators_may_do_everything(self, pizza: Group) -> None:
        await pizza.do(RELAY_KEY, 9000, ["p", B, "owner"])
        await pizza.do(EVE, 9001, ["p", A])
        assert await pizza.roles() == {"bob": ["owner"]}

    async def test_an_owner_may_leave(self, pizza: Group) -> None:
        await pizza.do(ALICE, 9022)
        assert await pizza.members() == []
        assert await pizza.roles() == {}

    @pytest.mark.parametrize(
        ("tags", "reason"),
        [
            ([], "invalid: p tags name 1 to 100 users"),
            ([["p"]], "invalid: a p tag holds a key of 64 hex digits"),
            ([["p", "A" * 64]], "invalid: a p tag holds a key of 64 hex digits"),
            ([["p", B, ""]], "invalid: a p tag holds at most 10 roles of 1 to 64 characters"),
            (
                [["p", B, *map(str, range(11))]],
                "invalid: a p tag holds at most 10 roles of 1 to 64 characters",
            ),
            ([["p", f"{n:064x}"] for n in range(101)], "invalid: p tags name 1 to 100 users"),
        ],
    )
    async def test_users_are_named_by_key(self, pizza: Group, tags: list[list[str]], reason: str) -> None:
        assert await pizza.refusal(ALICE, 9000, *tags) == reason
        assert await pizza.refusal(ALICE, 9001, *tags) == reason

    async def test_who_is_no_member_cannot_be_removed(self, pizza: Group) -> None:
        assert await pizza.refusal(ALICE, 9001, ["p", B]) == (
            "invalid: nobody of these is a member of the group"
        )

    async def test_a_change_that_is_not_later_is_repeated_by_the_relay(self, pizza: Group) -> None:
        await pizza.do(BOB, 9021)
        await pizza.do(ALICE, 9001, ["p", B], at=NOW - 5)
        assert await pizza.members() == ["alice"]
        found = await events(pizza.client, {"#p": [B], "kinds": [9000, 9001]})
        assert [(one["kind"], one["created_at"], one["pubkey"]) for one in found] == [
            (9001, NOW + 1, RELAY_KEY.public),
            (9000, NOW, RELAY_KEY.public),
            (9001, NOW - 5, A),
        ]

    async def test_a_large_group_is_listed_a_little_later(self, house: House, pizza: Group) -> None:
        keys = [author(f"member {n}").public for n in range(60)]
        await pizza.do(ALICE, 9000, *(["p", key] for key in keys))
        assert len(await pizza.notice(39002) or ()) == 1
        await catch_up(house)
        assert sorted(tag[1] for tag in await pizza.notice(39002) or ()) == sorted([A, *keys])


class TestMetadata:
    """Kind 9002 replaces all of it."""

    async def test_an_edit_replaces_everything(self, pizza: Group) -> None:
        first = [
            ["name", "Pizza Lovers"],
            ["about", "for people"],
            ["closed"],
            ["supported_kinds", "9", "11"],
        ]
        await pizza.do(ALICE, 9002, *first, ["picture", "https://pizza.test/p.png"], ["previous"], ["open"])
        assert await pizza.notice(39000) == [*first, ["picture", "https://pizza.test/p.png"]]
        await pizza.do(ALICE, 9002, ["name", "Pizza"], at=NOW + 1)
        assert await pizza.notice(39000) == [["name", "Pizza"]]

    async def test_an_edit_that_is_not_later_is_repeated_by_the_relay(self, pizza: Group) -> None:
        await pizza.do(ALICE, 9002, ["name", "first"])
        await pizza.do(ALICE, 9002, ["name", "second"])
        found = await events(pizza.client, {"kinds": [9002]})
        assert next((one["created_at"], one["pubkey"], one["tags"][1][1]) for one in found) == (
            NOW + 1,
            RELAY_KEY.public,
            "second",
        )
        assert await pizza.notice(39000) == [["name", "second"]]

    async def test_every_notice_is_later_than_the_one_before(self, pizza: Group) -> None:
        times = []
        for n in range(3):
            await pizza.do(ALICE, 9002, ["name", str(n)])
            (said,) = await events(pizza.client, {"kinds": [39000]})
            times.append(said["created_at"])
        assert times == [NOW + 1, NOW + 2, NOW + 3]

    async def test_notices_do_not_outrun_the_clock(self, pizza: Group) -> None:
        for n in range(70):
            await pizza.do(ALICE, 9002, ["name", str(n)])
        (said,) = await events(pizza.client, {"kinds": [39000]})
        assert (said["created_at"], said["tags"][1]) == (NOW + 60, ["name", "69"])

    @pytest.mark.parametrize(
        ("tags", "reason"),
        [
            ([["name", "a"], ["name", "b"]], "invalid: a group has one name"),
            ([["supported_kinds", "9", "1e3"]], "invalid: supported_kinds are numbers from 0 to 65535"),
            ([["supported_kinds", "65536"]], "invalid: supported_kinds are numbers from 0 to 65535"),
            ([["livekit"]], "unsupported: this relay has no live audio and video"),
            (
                [["about", "x" * 20_000]],
                "invalid: a group's metadata is at most 100 tags of 16384 characters",
            ),
            ([["parent"]], "invalid: at most one parent tag names the group above"),
            ([["parent", "a"], ["parent", "b"]], "invalid: at most one parent tag names the group above"),
            ([["child"]], "invalid: a child tag names a group below"),
            ([["child", "x"]], "invalid: the child tags must be those of all children of this group"),
        ],
    )
    async def test_what_makes_no_sense_changes_nothing(
        self, pizza: Group, tags: list[list[str]], reason: str
    ) -> None:
        await pizza.do(ALICE, 9002, ["name", "before"])
        assert (await pizza.refusal(ALICE, 9002, *tags, at=NOW + 1)).startswith(reason)
        assert await pizza.notice(39000) == [["name", "before"]]


class TestSpeaking:
    """What is sent to a group."""

    async def test_anybody_may_write_where_nothing_else_is_said(self, pizza: Group) -> None:
        await pizza.do(BOB, 9, content="hello")
        assert await pizza.client.find({"#h": ["pizza"], "kinds": [9]}) == ["hello"]

    async def test_only_members_write_in_a_restricted_group(self, pizza: Group) -> None:
        await pizza.do(ALICE, 9002, ["restricted"])
        assert (
            await pizza.refusal(BOB, 9, content="hello") == "restricted: only members may write in this group"
        )
        await pizza.do(BOB, 9021)
        await pizza.do(BOB, 9, content="hello")
        await pizza.do(ALICE, 9001, ["p", B], at=NOW + 1)
        assert (
            await pizza.refusal(BOB, 9, content="again") == "restricted: only members may write in this group"
        )

    async def test_only_members_send_what_nobody_keeps(self, house: House, pizza: Group) -> None:
        await pizza.do(ALICE, 9002, ["restricted"], ["supported_kinds", "20001"])
        reader = await house.connect()
        await reader.subscribe("s", {"kinds": [20_001, 20_002]})
        refused = "restricted: this group does not take this event from you"
        assert await pizza.refusal(BOB, 20_001, content="typing") == refused
        assert await pizza.refusal(ALICE, 20_002, content="typing") == refused
        await pizza.do(ALICE, 20_001, content="typing")
        assert await reader.live() == [("s", "typing")]

    async def test_a_group_takes_the_kinds_it_supports(self, pizza: Group) -> None:
        await pizza.do(ALICE, 9002, ["supported_kinds", "9"])
        await pizza.do(BOB, 9, content="hello")
        assert await pizza.refusal(BOB, 11) == "blocked: this group does not take kind 11"
        await pizza.do(ALICE, 9002, ["supported_kinds"], at=NOW + 1)
        assert await pizza.refusal(BOB, 9) == "blocked: this group does not take kind 9"

    async def test_everybody_may_take_back_what_they_said(self, pizza: Group) -> None:
        said = sent(BOB, 9, content="hello")
        await pizza.client.publish(said)
        await pizza.do(ALICE, 9002, ["restricted"], ["supported_kinds"])
        await pizza.do(BOB, 5, ["e", said.id])
        assert await pizza.client.find({"#h": ["pizza"], "kinds": [9]}) == []

    async def test_late_publication_is_refused(self, pizza: Group) -> None:
        assert await pizza.refusal(BOB, 9, at=NOW - 7_201) == (
            "invalid: events for a group are taken for 7200 seconds after they were made"
        )
        await pizza.do(BOB, 9, at=NOW - 7_200)
        await Group(pizza.client, "elsewhere").do(BOB, 9, at=NOW - 7_201)
        assert await pizza.client.publish(note(BOB, created_at=NOW - 7_201)) == (True, "")

    async def test_previous_events_must_be_known_in_the_group(self, pizza: Group) -> None:
        said = sent(BOB, 9, content="hello")
        await pizza.client.publish(said)
        (added,) = await events(pizza.client, {"kinds": [9000]})
        await pizza.do(BOB, 9, ["previous", said.id[:8], added["id"][:8]], content="knows both")
        assert await pizza.refusal(BOB, 9, ["previous", said.id[:8], "00000000"]) == (
            "invalid: the previous event 00000000 is not in this group"
        )
        for bad in ("", said.id, "ABCDEF01"):
            assert await pizza.refusal(BOB, 9, ["previous", bad]) == (
                "invalid: a previous tag holds the first 8 hex digits of events' ids"
            )
        outside = note(BOB, "outside")
        await pizza.client.publish(outside)
        assert (await pizza.refusal(BOB, 9, ["previous", outside.id[:8]])).startswith("invalid: the previous")

    async def test_previous_events_are_bounded(self, pizza: Group) -> None:
        assert await pizza.refusal(BOB, 9, ["previous", *["00000000"] * 101]) == (
            "invalid: at most 100 events may be referred to as previous ones"
        )


class TestDeletingEvents:
    """Kind 9005."""

    async def test_a_moderator_deletes_what_is_in_the_group(self, pizza: Group) -> None:
        said, other = sent(BOB, 9, content="spam"), sent(BOB, 9, content="fine")
        for one in (said, other):
            await pizza.client.publish(one)
        await pizza.do(ALICE, 9000, ["p", C, "moderator"])
        await pizza.do(CAROL, 9005, ["e", said.id])
        assert await pizza.client.find({"kinds": [9]}) == ["fine"]
        assert await pizza.client.publish(said) == (False, "blocked: this event was deleted from its group")
        assert (await pizza.refusal(BOB, 9, ["previous", said.id[:8]])).startswith(
            "invalid: the previous event"
        )

    async def test_nobody_deletes_what_is_elsewhere(self, pizza: Group) -> None:
        outside, other = note(BOB, "outside"), sent(BOB, 9, group="pasta", content="pasta")
        for one in (outside, other):
            await pizza.client.publish(one)
            assert await pizza.refusal(ALICE, 9005, ["e", one.id]) == (
                "invalid: none of these events is in this group"
            )
        assert await pizza.refusal(ALICE, 9005, ["e", "x"]) == (
            "invalid: an e tag holds an event id of 64 hex digits"
        )
        assert sorted(await pizza.client.find({"kinds": [1, 9]})) == ["outside", "pasta"]

    async def test_the_history_of_the_group_stays(self, pizza: Group) -> None:
        (added,) = await events(pizza.client, {"kinds": [9000]})
        assert await pizza.refusal(ALICE, 9005, ["e", added["id"]]) == (
            "blocked: what changed the group stays in its history"
        )

    async def test_what_is_deleted_is_pinned_no_more(self, pizza: Group) -> None:
        said = sent(BOB, 9, content="spam")
        await pizza.client.publish(said)
        await pizza.do(ALICE, 9010, ["e", said.id], ["a", f"30023:{A}:pizza"])
        await pizza.do(ALICE, 9005, ["e", said.id])
        assert await pizza.notice(39005) == [["a", f"30023:{A}:pizza"]]


class TestPins:
    """Kind 9010 is the whole list."""

    async def test_pins_are_in_the_order_of_the_list(self, pizza: Group) -> None:
        first, second = ["e", "1" * 64], ["a", f"30023:{A}:pizza"]
        await pizza.do(ALICE, 9010, first, second)
        assert await pizza.notice(39005) == [first, second]
        await pizza.do(ALICE, 9010, second, first, at=NOW + 1)
        assert await pizza.notice(39005) == [second, first]
        await pizza.do(ALICE, 9010, at=NOW + 2)
        assert await pizza.notice(39005) == []

    async def test_a_list_that_is_not_later_is_repeated_by_the_relay(self, pizza: Group) -> None:
        await pizza.do(ALICE, 9010, ["e", "1" * 64])
        await pizza.do(ALICE, 9010, ["e", "2" * 64])
        newest = (await events(pizza.client, {"kinds": [9010]}))[0]
        assert (newest["pubkey"], newest["tags"][1]) == (RELAY_KEY.public, ["e", "2" * 64])

    async def test_bad_lists_are_refused(self, pizza: Group) -> None:
        for tag in (["e"], ["e", "x"], ["a", "1:x"]):
            assert (await pizza.refusal(ALICE, 9010, tag)).startswith("invalid: pinned events are named by")
        assert await pizza.refusal(ALICE, 9010, *(["e", f"{n:064x}"] for n in range(101))) == (
            "blocked: a group has at most 100 pinned events"
        )


class TestSubgroups:
    """Parents and children."""

    @pytest.fixture
    async def food(self, pizza: Group) -> Group:
        """The group above the pizza's, also Alice's."""
        group = Group(pizza.client, "food")
        await group.do(ALICE, 9007)
        await pizza.do(ALICE, 9002, ["name", "Pizza"], ["parent", "food"])
        return group

    async def test_a_group_is_put_below_another(self, pizza: Group, food: Group) -> None:
        assert await pizza.notice(39000) == [["name", "Pizza"], ["parent", "food"]]
        assert await food.notice(39000) == [["child", "pizza"]]

    async def test_a_group_moves_and_becomes_a_root(self, pizza: Group, food: Group) -> None:
        italy = Group(pizza.client, "italy")
        await italy.do(ALICE, 9007)
        await pizza.do(ALICE, 9002, ["parent", "italy"], at=NOW + 1)
        assert (await food.notice(39000), await italy.notice(39000)) == ([], [["child", "pizza"]])
        await pizza.do(ALICE, 9002, at=NOW + 2)
        assert (await pizza.notice(39000), await italy.notice(39000)) == ([], [])

    async def test_an_edit_names_all_children_in_their_order(self, pizza: Group, food: Group) -> None:
        pasta = Group(pizza.client, "pasta")
        await pasta.do(ALICE, 9007)
        await pasta.do(ALICE, 9002, ["parent", "food"])
        for children in (
            [],
            ["pizza"],
            ["pizza", "pasta", "x"],
            ["pizza", "pizza"],
            ["pizza", "pasta", "pasta"],
        ):
            assert await food.refusal(ALICE, 9002, *(["child", one] for one in children), at=NOW + 1) == (
                "invalid: the child tags must be those of all children of this group, and no others"
            )
        await food.do(ALICE, 9002, ["child", "pasta"], ["child", "pizza"], at=NOW + 1)
        assert await food.notice(39000) == [["child", "pasta"], ["child", "pizza"]]

    async def test_no_group_is_below_itself(self, pizza: Group, food: Group) -> None:
        assert (
            await pizza.refusal(ALICE, 9002, ["parent", "pizza"]) == "invalid: a group cannot be below itself"
        )
        assert await food.refusal(ALICE, 9002, ["parent", "pizza"], ["child", "pizza"]) == (
            "invalid: a group cannot be below itself"
        )

    async def test_a_parent_exists_and_its_admin_agrees(self, pizza: Group, food: Group) -> None:
        assert await pizza.refusal(ALICE, 9002, ["parent", "nowhere"]) == (
            "invalid: the parent group does not exist on this relay"
        )
        bobs = Group(pizza.client, "bobs")
        await bobs.do(BOB, 9007)
        refusal = "restricted: only an admin of the parent group may put a group below it"
        assert await bobs.refusal(BOB, 9002, ["parent", "food"]) == refusal
        await food.do(ALICE, 9000, ["p", B, "moderator"])
        assert await bobs.refusal(BOB, 9002, ["parent", "food"]) == refusal
        await food.do(ALICE, 9000, ["p", B, "admin"], at=NOW + 1)
        await bobs.do(BOB, 9002, ["parent", "food"])
        assert await food.notice(39000) == [["child", "pizza"], ["child", "bobs"]]

    async def test_roles_and_members_are_not_inherited(self, pizza: Group, food: Group) -> None:
        await food.do(ALICE, 9000, ["p", B, "owner"])
        assert await pizza.members() == ["alice"]
        assert await pizza.refusal(BOB, 9002, ["name", "mine"]) == (
            "restricted: your role in this group does not allow this"
        )

    async def test_orphans_become_roots(self, pizza: Group, food: Group) -> None:
        await food.do(ALICE, 9008)
        assert await pizza.notice(39000) == [["name", "Pizza"]]
        assert await food.notice(39000) is None

    async def test_a_deleted_child_is_a_child_no_more(self, pizza: Group, food: Group) -> None:
        await pizza.do(ALICE, 9008)
        assert await food.notice(39000) == []

    async def test_groups_are_not_nested_without_end(self, client: Client) -> None:
        config = RelayConfig.model_validate({"groups": {"created_per_minute": 0, "max_created": 100}})
        async with House(Clock(), config) as house:
            client = await house.connect()
            groups = [Group(client, f"level {n}") for n in range(34)]
            for group in groups:
                await group.do(ALICE, 9007)
            for below, above in zip(groups[1:33], groups, strict=False):
                if above.id == "level 31":
                    break
                await below.do(ALICE, 9002, ["parent", above.id])
            assert await groups[32].refusal(ALICE, 9002, ["parent", "level 31"]) == (
                "blocked: groups are nested 32 deep at most"
            )


class TestDeletingGroups:
    """Kind 9008."""

    async def test_a_deleted_group_is_gone_for_good(self, house: House, pizza: Group) -> None:
        await pizza.do(BOB, 9, content="hello")
        assert await pizza.refusal(BOB, 9008) == "restricted: your role in this group does not allow this"
        await pizza.do(ALICE, 9008, content="over")
        assert [await pizza.notice(kind) for kind in range(39000, 39006)] == [None] * 6
        assert await pizza.client.find({"#h": ["pizza"]}) == ["over"]
        assert await pizza.client.count({"#h": ["pizza"]}) == 1
        for kind in (9, 9002, 9007, 9021):
            assert await pizza.refusal(ALICE, kind, at=NOW + 1) == (
                "blocked: this group was deleted; its id is not used again"
            )

    async def test_what_it_held_is_removed_in_time(self, house: House, pizza: Group) -> None:
        for n in range(3):
            await pizza.do(BOB, 9, content=str(n))
        await pizza.do(ALICE, 9008, content="over")
        await catch_up(house)
        await catch_up(house)
        head = await house.store.head()
        left = [row.kind async for page in house.store.dump(upto=head, now=NOW) for row in map(decode, page)]
        assert left == [9008]
        assert [key for key, _ in house.store.records("groups", "")] == [f"c\n{A}", "g\npizza"]
        assert await pizza.client.find({"#h": ["pizza"]}) == ["over"]


class TestReading:
    """Private and hidden groups, through every door."""

    async def test_what_is_private_is_for_members(self, house: House, pizza: Group) -> None:
        await pizza.do(BOB, 9021)
        await pizza.do(ALICE, 9002, ["private"], ["name", "Secret pizza"])
        said = sent(BOB, 9, content="secret")
        await pizza.client.publish(said)
        await pizza.client.publish(note(BOB, "public"))
        about_it: list[dict[str, object]] = [
            {"#h": ["pizza"]},
            {"kinds": [9]},
            {"ids": [said.id]},
            {"authors": [B], "kinds": [9, 9021]},
        ]
        bob, carol = await house.connect(), await house.connect()
        await bob.authenticate(BOB, NOW)
        await carol.authenticate(CAROL, NOW)
        for stranger in (pizza.client, carol):
            for wanted in about_it:
                assert await stranger.find(wanted) == []
                assert await stranger.count(wanted) == 0
                assert await needed(stranger, wanted) == 0
            assert await stranger.find({"authors": [B]}) == ["public"]
            assert await stranger.find({"authors": [B], "limit": 1}) == ["public"]
            assert await stranger.count({"authors": [B]}) == 1
            assert await needed(stranger, {"authors": [B]}) == 1
        assert await bob.find({"kinds": [9]}) == ["secret"]
        assert await bob.count({"authors": [B]}) == 3
        assert await needed(bob, {"authors": [B]}) == 3

    async def test_what_is_private_is_live_for_members(self, house: House, pizza: Group) -> None:
        await pizza.do(BOB, 9021)
        await pizza.do(ALICE, 9002, ["private"])
        readers = {}
        for key in (BOB, CAROL):
            readers[key] = await house.connect()
            await readers[key].authenticate(key, NOW)
            await readers[key].subscribe("s", {"kinds": [9, 20_001]})
        await pizza.do(ALICE, 9, content="one")
        await pizza.do(ALICE, 20_001, content="typing")
        assert await readers[BOB].live() == [("s", "one"), ("s", "typing")]
        await pizza.do(ALICE, 9001, ["p", B], at=NOW + 1)
        await pizza.do(ALICE, 9000, ["p", C])
        await pizza.do(ALICE, 9, content="two")
        assert await readers[BOB].live() == []
        assert await readers[CAROL].live() == [("s", "two")]

    async def test_who_is_removed_learns_of_it(self, house: House, pizza: Group) -> None:
        await pizza.do(BOB, 9021)
        await pizza.do(ALICE, 9002, ["private"])
        await pizza.do(ALICE, 9001, ["p", B], content="bye", at=NOW + 1)
        bob = await house.connect()
        await bob.authenticate(BOB, NOW)
        assert await bob.find({"kinds": [9001], "#h": ["pizza"]}) == ["bye"]
        assert await pizza.client.find({"kinds": [9001], "#h": ["pizza"]}) == []

    async def test_the_members_of_a_private_group_are_private_too(self, house: House, pizza: Group) -> None:
        await pizza.do(ALICE, 9002, ["private"])
        await pizza.do(ALICE, 9010, ["e", "1" * 64])
        assert [kind for kind in range(39000, 39006) if await pizza.notice(kind) is not None] == [
            39000,
            39001,
            39003,
        ]
        alice = await house.connect()
        await alice.authenticate(ALICE, NOW)
        assert await Group(alice).members() == ["alice"]

    async def test_a_hidden_group_is_not_seen_by_others(self, house: House, pizza: Group) -> None:
        await pizza.do(ALICE, 9002, ["hidden"])
        for kind in range(39000, 39006):
            assert await pizza.notice(kind) is None
            assert await pizza.client.count({"kinds": [kind]}) == 0
        alice = await house.connect()
        await alice.authenticate(ALICE, NOW)
        assert await Group(alice).notice(39000) == [["hidden"]]

    async def test_a_group_that_opens_is_read_by_all(self, pizza: Group) -> None:
        await pizza.do(ALICE, 9002, ["private"])
        await pizza.do(ALICE, 9, content="secret")
        assert await pizza.client.find({"kinds": [9]}) == []
        await pizza.do(ALICE, 9002, at=NOW + 1)
        assert await pizza.client.find({"kinds": [9]}) == ["secret"]
