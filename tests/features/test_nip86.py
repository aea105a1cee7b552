"""NIP-86: what administrators and moderators decide counts at once, and nobody lifts himself."""

from collections.abc import AsyncIterator

import orjson
import pytest

from relay.config import RelayConfig
from relay.engine.feature import HttpRequest, HttpResponse
from relay.features.nip86 import MEDIA_TYPE, names_of
from relay.nostr.keys import SecretKey
from relay.nostr.reasons import Prefix, Refusal
from tests.events import ALICE, BOB, CAROL, DAVE, NOW, Clock, event, note
from tests.features.managing import Office, authorization, header
from tests.net.house import RELAY_KEY, UNVEILED, URL, House

A, B, C, D = (key.public for key in (ALICE, BOB, CAROL, DAVE))
STAFF = {
    "admins": [A],
    "moderation": {"keys": [B], "roles": ["moderator"]},
    "members": {"enabled": True},
}
# NIP-86 as of 2026-09, but for granting single methods, and without `supportedmethods` itself.
METHODS = {
    "banpubkey", "unbanpubkey", "listbannedpubkeys", "allowpubkey", "unallowpubkey", "listallowedpubkeys",
    "createrole", "editrole", "deleterole", "assignrole", "unassignrole", "listeventsneedingmoderation",
    "allowevent", "banevent", "listbannedevents", "changerelayname", "changerelaydescription",
    "changerelayicon", "allowkind", "disallowkind", "listallowedkinds", "blockip", "unblockip",
    "listblockedips", "unallowevent", "unbanevent", "listallowedevents", "listdisallowedkinds",
}  # fmt: skip
BANNED = "blocked: this event or its author is banned here"


@pytest.fixture
async def office(clock: Clock) -> AsyncIterator[Office]:
    """A relay that Alice administers and Bob moderates."""
    async with House(clock, RelayConfig.model_validate(STAFF)) as house:
        yield Office(house)


class TestWhoMayCall:
    """The signature in the Authorization header, and what its author may do."""

    async def test_a_call_without_a_signature_is_answered_with_401(self, office: Office) -> None:
        answer = await office.post(b"{}", "")
        assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Nostr")
        assert orjson.loads(answer.body) == {
            "error": "auth-required: this needs an Authorization header of the scheme Nostr (NIP-98)"
        }

    async def test_the_body_is_signed_too(self, office: Office) -> None:
        body = b'{"method":"supportedmethods","params":[]}'
        tags = [["u", "http://relay.test/"], ["method", "POST"]]
        answer = await office.post(body, header(authorization(ALICE, body, NOW, tags=tags)))
        assert answer.status == 401
        assert b"a payload tag" in answer.body
        answer = await office.post(body + b" ", header(authorization(ALICE, body, NOW)))
        assert answer.status == 401

    @pytest.mark.parametrize("url", ["http://relay.test", "https://relay.test/", URL])
    async def test_the_relay_may_be_called_by_any_scheme(self, office: Office, url: str) -> None:
        body = b'{"method":"supportedmethods"}'
        answer = await office.post(body, header(authorization(ALICE, body, NOW, url=url)))
        assert answer.status == 200

    async def test_another_url_is_not_this_relays(self, office: Office) -> None:
        body = b'{"method":"supportedmethods"}'
        for url in ("http://other.test/", "http://relay.test/below", "ftp://relay.test/"):
            answer = await office.post(body, header(authorization(ALICE, body, NOW, url=url)))
            assert answer.status == 401

    def test_a_path_is_a_part_of_the_url(self) -> None:
        assert list(names_of("wss://relay.test/nostr")) == [
            "http://relay.test/nostr",
            "https://relay.test/nostr",
            "ws://relay.test/nostr",
            "wss://relay.test/nostr",
        ]

    async def test_one_signature_is_good_for_one_call(self, office: Office) -> None:
        body = orjson.dumps({"method": "listbannedpubkeys", "params": []})
        proof = header(authorization(ALICE, body, NOW))
        assert orjson.loads((await office.post(body, proof)).body) == {"result": []}
        assert orjson.loads((await office.post(body, proof)).body) == {
            "error": "invalid: this authorization was used already; sign a new one"
        }
        office.house.clock.advance(60)
        assert b"used already" in (await office.post(body, proof)).body

    async def test_it_is_used_up_also_by_a_call_that_failed(self, office: Office) -> None:
        body = orjson.dumps({"method": "unbanpubkey", "params": [C]})
        proof = header(authorization(ALICE, body, NOW))
        assert b"not banned" in (await office.post(body, proof)).body
        await office.call(ALICE, "banpubkey", C)
        assert b"used already" in (await office.post(body, proof)).body

    async def test_strangers_may_not_call_anything(self, office: Office) -> None:
        body = b'{"method":"supportedmethods","params":[]}'
        answer = await office.post(body, header(authorization(CAROL, body, NOW)))
        assert (answer.status, orjson.loads(answer.body)) == (
            403,
            {"error": "restricted: this key does not manage this relay"},
        )

    async def test_supported_methods_are_those_that_one_may_call(self, office: Office) -> None:
        assert await office.call(BOB, "supportedmethods") == [
            "allowevent",
            "banevent",
            "banpubkey",
            "listallowedevents",
            "listbannedevents",
            "listbannedpubkeys",
            "listeventsneedingmoderation",
            "unallowevent",
            "unbanevent",
            "unbanpubkey",
        ]
        everything = await office.call(ALICE, "supportedmethods")
        assert set(everything) == METHODS

    async def test_without_members_there_are_no_methods_about_them(self, clock: Clock) -> None:
        async with House(clock, RelayConfig.model_validate({"admins": [A]})) as house:
            office = Office(house)
            methods = await office.call(ALICE, "supportedmethods")
            assert "allowpubkey" not in methods
            assert "createrole" not in methods
            assert (await office.refusal(ALICE, "allowpubkey", C)).startswith("unsupported: ")

    @pytest.mark.parametrize(
        "method", ["assignrole", "createrole", "blockip", "changerelayname", "allowkind"]
    )
    async def test_moderators_do_not_administer(self, office: Office, method: str) -> None:
        assert await office.refusal(BOB, method, "x") == (
            f"unsupported: '{method}' is not a method that you may call"
        )

    async def test_a_role_makes_a_moderator_and_no_administrator(self, office: Office) -> None:
        await office.call(ALICE, "createrole", "moderator", "Moderator", "Keeps order.", 120, 1)
        await office.call(ALICE, "allowpubkey", C)
        await office.call(ALICE, "assignrole", C, "moderator")
        await office.call(CAROL, "banpubkey", D)
        assert (await office.refusal(CAROL, "assignrole", C, "owner")).startswith("unsupported: ")
        await office.call(ALICE, "unassignrole", C, "moderator")
        assert (await office.answer(CAROL, "unbanpubkey", D)) == {
            "error": "restricted: this key does not manage this relay"
        }

    async def test_moderators_do_not_ban_each_other(self, office: Office) -> None:
        await office.call(ALICE, "createrole", "moderator")
        await office.call(ALICE, "allowpubkey", C)
        await office.call(ALICE, "assignrole", C, "moderator")
        assert (
            await office.refusal(BOB, "banpubkey", C) == "restricted: only an administrator bans a moderator"
        )
        await office.call(ALICE, "banpubkey", C)
        assert await office.answer(CAROL, "banpubkey", D) == {
            "error": "restricted: this key does not manage this relay"
        }

    @pytest.mark.parametrize(
        "body",
        [b"", b"[]", b"{", b'{"method":1}', b'{"method":"banevent","params":{}}', b'{"params":[]}', b"\xff"],
        ids=str,
    )
    async def test_a_body_that_is_no_call_is_answered_with_400(self, office: Office, body: bytes) -> None:
        assert (await office.post(body, header(authorization(ALICE, body, NOW)))).status == 400

    async def test_a_relay_without_staff_has_no_such_api(self, clock: Clock) -> None:
        async with House(clock) as house:
            routes = [route for feature in house.relay.features for route in feature.routes]
            assert MEDIA_TYPE not in [route.accept for route in routes]
            assert 86 not in [feature.nip for feature in house.relay.features]


class TestKeys:
    """banpubkey, unbanpubkey, listbannedpubkeys."""

    async def test_nothing_more_is_taken_of_a_banned_key(self, office: Office) -> None:
        client = await office.house.connect()
        await office.call(ALICE, "banpubkey", C, "spam")
        assert await client.publish(note(CAROL, "more")) == (False, BANNED)
        assert await client.publish(note(DAVE, "hello")) == (True, "")
        assert await office.call(ALICE, "listbannedpubkeys") == [{"pubkey": C, "reason": "spam"}]
        await office.call(ALICE, "unbanpubkey", C)
        assert await client.publish(note(CAROL, "more")) == (True, "")
        assert await office.call(ALICE, "listbannedpubkeys") == []

    async def test_what_a_banned_key_has_published_is_removed(self, office: Office) -> None:
        client = await office.house.connect()
        for n in range(3):
            await client.publish(note(CAROL, f"spam {n}"))
        await client.publish(note(DAVE, "ham"))
        await office.call(ALICE, "banpubkey", C)
        await office.work()
        assert await client.find({"kinds": [1]}) == ["ham"]
        await office.work()
        assert office.house.desk.records("management", "purge/") == []

    async def test_it_may_be_kept(self, office: Office) -> None:
        client = await office.house.connect()
        await client.publish(note(CAROL, "history"))
        await office.call(ALICE, "banpubkey", C, "enough", "keep")
        await office.work()
        assert await client.find({"kinds": [1]}) == ["history"]

    async def test_who_is_unbanned_may_publish_the_same_again(self, office: Office) -> None:
        client = await office.house.connect()
        await client.publish(note(CAROL, "hello"))
        await office.call(ALICE, "banpubkey", C)
        await office.work()
        await office.call(ALICE, "unbanpubkey", C)
        assert await client.publish(note(CAROL, "hello")) == (True, "")
        await office.work()
        assert await client.find({"kinds": [1]}) == ["hello"]

    @pytest.mark.parametrize("key", [ALICE, BOB])
    async def test_who_is_named_in_the_settings_cannot_be_banned(
        self, office: Office, key: SecretKey
    ) -> None:
        assert await office.refusal(ALICE, "banpubkey", key.public) == (
            "invalid: this key administers or moderates the relay by its settings; take it out of them first"
        )

    async def test_the_relay_cannot_be_banned(self, office: Office) -> None:
        assert await office.refusal(ALICE, "banpubkey", RELAY_KEY.public) == (
            "invalid: this is the relay's own key"
        )

    @pytest.mark.parametrize("params", [(), ("x",), (C.upper(),), (1,), (None,), (C, 5), (C, "x" * 1_001)])
    async def test_parameters_that_make_no_sense_are_refused(
        self, office: Office, params: tuple[object, ...]
    ) -> None:
        assert (await office.refusal(ALICE, "banpubkey", *params)).startswith("invalid: expected ")
        assert await office.call(ALICE, "listbannedpubkeys") == []

    async def test_a_ban_holds_in_another_process_of_the_same_store(self, office: Office) -> None:
        await office.call(ALICE, "banpubkey", C)
        config = RelayConfig.model_validate({})  # no administrator any more
        async with House(office.house.clock, config, store=office.house.store) as other:
            client = await other.connect()
            assert await client.publish(note(CAROL)) == (False, BANNED)


class TestEvents:
    """banevent, allowevent, listbannedevents."""

    async def test_a_banned_event_is_removed_and_not_taken_again(self, office: Office) -> None:
        client = await office.house.connect()
        bad = note(CAROL, "bad")
        await client.publish(bad)
        await office.call(BOB, "banevent", bad.id, "slander")
        assert await client.find({"kinds": [1]}) == []
        assert await client.publish(bad) == (False, BANNED)
        assert await client.publish(note(CAROL, "good")) == (True, "")
        assert await office.call(BOB, "listbannedevents") == [{"id": bad.id, "reason": "slander"}]
        await office.call(BOB, "allowevent", bad.id)
        assert await office.call(BOB, "listbannedevents") == []
        assert await client.publish(bad) == (True, "")

    async def test_an_event_can_be_banned_before_it_comes(self, office: Office) -> None:
        client = await office.house.connect()
        bad = note(CAROL, "bad")
        await office.call(BOB, "banevent", bad.id)
        assert await client.publish(bad) == (False, BANNED)


class TestKinds:
    """allowkind, disallowkind, listallowedkinds."""

    async def test_a_kind_is_refused_and_taken_again(self, office: Office) -> None:
        client = await office.house.connect()
        await office.call(ALICE, "disallowkind", 7)
        assert await client.publish(event(CAROL, 7, "+")) == (False, "blocked: kind 7 is not taken here")
        assert await client.publish(note(CAROL)) == (True, "")
        assert await office.call(ALICE, "listallowedkinds") == []
        await office.call(ALICE, "allowkind", 7)
        assert await client.publish(event(CAROL, 7, "+")) == (True, "")
        assert await office.call(ALICE, "listallowedkinds") == []

    async def test_once_there_is_a_list_only_its_kinds_are_taken(self, office: Office) -> None:
        client = await office.house.connect()
        await office.call(ALICE, "allowkind", 1)
        await office.call(ALICE, "allowkind", 30_023)
        assert await office.call(ALICE, "listallowedkinds") == [1, 30_023]
        assert await client.publish(event(CAROL, 7, "+")) == (False, "blocked: kind 7 is not taken here")
        assert await client.publish(note(CAROL)) == (True, "")
        for kind in (1, 30_023):
            await office.call(ALICE, "disallowkind", kind)
            await office.call(ALICE, "allowkind", kind)
        assert await office.call(ALICE, "listallowedkinds") == []
        assert await client.publish(event(CAROL, 7, "+")) == (True, "")

    @pytest.mark.parametrize("kind", [-1, 65_536, "1", True, None, 1.5])
    async def test_a_kind_is_a_number(self, office: Office, kind: object) -> None:
        for method in ("allowkind", "disallowkind"):
            assert await office.refusal(ALICE, method, kind) == (
                "invalid: expected a kind from 0 to 65535 as parameter 1"
            )


class TestAddresses:
    """blockip, unblockip, listblockedips."""

    async def test_a_blocked_address_is_neither_heard_nor_answered(self, office: Office) -> None:
        bad, good = await office.house.connect("192.0.2.7"), await office.house.connect("192.0.2.8")
        await office.call(ALICE, "blockip", "192.0.2.7", "floods")
        assert await bad.publish(note(CAROL)) == (False, "blocked: your address is blocked here")
        assert await bad.refusal("REQ", {}) == "blocked: your address is blocked here"
        assert await good.publish(note(CAROL)) == (True, "")
        assert office.house.relay.turns_away("192.0.2.7")
        assert not office.house.relay.turns_away("192.0.2.8")
        assert await office.call(ALICE, "listblockedips") == [{"ip": "192.0.2.7", "reason": "floods"}]
        await office.call(ALICE, "unblockip", "192.0.2.7")
        assert await bad.publish(note(DAVE)) == (True, "")

    @pytest.mark.parametrize(
        ("blocked", "shown", "hit", "missed"),
        [
            ("192.0.2.7", "192.0.2.7", "::ffff:192.0.2.7", "192.0.2.70"),
            ("::ffff:192.0.2.7", "192.0.2.7", "192.0.2.7", "::ffff:192.0.2.8"),
            ("2001:db8::1", "2001:db8::/64", "2001:db8::ffff:1", "2001:db8:0:1::1"),
            ("2001:db8::/64", "2001:db8::/64", "2001:db8::2", "2001:db9::2"),
        ],
    )
    async def test_what_is_blocked_is_what_limits_count(
        self, office: Office, blocked: str, shown: str, hit: str, missed: str
    ) -> None:
        await office.call(ALICE, "blockip", blocked)
        assert await office.call(ALICE, "listblockedips") == [{"ip": shown, "reason": ""}]
        office.house.relay.catch_up()
        assert office.house.relay.turns_away(hit)
        assert not office.house.relay.turns_away(missed)
        await office.call(ALICE, "unblockip", shown)
        assert await office.call(ALICE, "listblockedips") == []

    @pytest.mark.parametrize("address", ["", "relay.test", "192.0.2.0/24", "2001:db8::/32", 7])
    async def test_it_is_one_address(self, office: Office, address: object) -> None:
        assert (await office.refusal(ALICE, "blockip", address)).startswith("invalid: expected an IP address")


class TestTexts:
    """changerelayname, changerelaydescription, changerelayicon."""

    def document(self, office: Office) -> dict[str, object]:
        (route,) = (
            route
            for feature in office.house.relay.features
            for route in feature.routes
            if route.accept == "application/nostr+json"
        )
        office.house.relay.catch_up()
        answer = route.handler(HttpRequest("/", "relay.test", URL, UNVEILED))
        assert isinstance(answer, HttpResponse)
        shown = orjson.loads(answer.body)
        assert type(shown) is dict
        return shown

    async def test_the_information_document_shows_them_at_once(self, office: Office) -> None:
        before = self.document(office)
        await office.call(ALICE, "changerelayname", "Square")
        await office.call(ALICE, "changerelaydescription", "Ours.")
        await office.call(ALICE, "changerelayicon", "https://relay.test/icon.png")
        assert self.document(office) == before | {
            "name": "Square",
            "description": "Ours.",
            "icon": "https://relay.test/icon.png",
        }
        await office.call(ALICE, "changerelayicon", "")
        assert "icon" not in self.document(office)

    @pytest.mark.parametrize(
        ("method", "text"),
        [
            ("changerelayname", "x" * 31),
            ("changerelayname", None),
            ("changerelayicon", "javascript:alert(1)"),
            ("changerelayicon", "http://[::"),
            ("changerelaydescription", "x" * 2_001),
        ],
    )
    async def test_texts_that_are_none_are_refused(self, office: Office, method: str, text: object) -> None:
        assert (await office.refusal(ALICE, method, text)).startswith("invalid: expected ")


class TestRoles:
    """createrole, editrole, deleterole, assignrole, unassignrole; more in test_nip43.py."""

    @pytest.mark.parametrize(
        ("params", "error"),
        [
            ((), "expected the id of a role of at most 64 characters as parameter 1"),
            (("",), "the id of a role is not empty and printable"),
            (("a\nb",), "the id of a role is not empty and printable"),
            (("x", 5), "expected a label of at most 100 characters as parameter 2"),
            (("x", "", "", 361), "expected a hue from 0 to 360 as parameter 4"),
            (("x", "", "", -1), "expected a hue from 0 to 360 as parameter 4"),
            (("x", "", "", "red"), "expected a hue from 0 to 360 as parameter 4"),
            (("x", "", "", "0", 1.5), "expected an order as parameter 5"),
        ],
    )
    async def test_a_role_that_makes_no_sense_is_refused(
        self, office: Office, params: tuple[object, ...], error: str
    ) -> None:
        assert await office.refusal(ALICE, "createrole", *params) == f"invalid: {error}"

    async def test_what_is_not_there_is_not_changed(self, office: Office) -> None:
        missing = "invalid: there is no role with this id"
        assert await office.refusal(ALICE, "editrole", "x") == missing
        assert await office.refusal(ALICE, "deleterole", "x") == missing
        assert await office.refusal(ALICE, "assignrole", C, "x") == (
            "invalid: this key is not a member's; allow it first"
        )
        await office.call(ALICE, "allowpubkey", C)
        assert await office.refusal(ALICE, "assignrole", C, "x") == missing
        await office.call(ALICE, "createrole", "x")
        assert await office.refusal(ALICE, "createrole", "x") == "invalid: there is a role with this id"
        assert await office.refusal(ALICE, "unassignrole", C, "x") == (
            "invalid: this member does not have this role"
        )


class TestBansInTheTransaction:
    """What was admitted before a ban, and what nobody's rules are asked about."""

    async def test_an_event_on_its_way_is_judged_again(self, office: Office) -> None:
        store, admission = office.house.store, office.house.relay.admission
        on_its_way = [admission.effects(note(CAROL, "hers")), admission.effects(note(DAVE, "his"))]
        await office.call(ALICE, "banpubkey", C)
        await office.call(ALICE, "banevent", on_its_way[1].event.id)

        banned = Refusal(Prefix.BLOCKED, "this event or its author is banned here")
        assert await store.write(on_its_way) == [banned, banned]

    async def test_a_banned_key_may_vanish(self, office: Office) -> None:
        client = await office.house.connect()
        await client.publish(note(CAROL, "kept", created_at=NOW - 1))
        await office.call(ALICE, "banpubkey", C, "rude", "keep")

        vanish = event(CAROL, 62, "farewell", tags=[["relay", "ALL_RELAYS"]])
        assert await client.publish(vanish) == (True, "")

        assert await client.find({"authors": [C]}) == ["farewell"]
        assert await client.publish(note(CAROL, created_at=NOW + 1)) == (False, BANNED)

    async def test_a_ban_that_removes_all_leaves_the_request_to_vanish(self, office: Office) -> None:
        client = await office.house.connect()
        await client.publish(event(CAROL, 62, "farewell", tags=[["relay", "ALL_RELAYS"]]))
        await client.publish(note(CAROL, "newer", created_at=NOW + 1))

        await office.call(ALICE, "banpubkey", C)
        for _ in range(2):
            await office.work()

        assert await client.find({"authors": [C]}) == ["farewell"]
        assert office.house.store.record("management", f"purge/{C}") is None


class TestTakingBack:
    """unallowevent, unbanevent, listallowedevents, listdisallowedkinds; allowing a key that is banned."""

    async def test_a_banned_event_may_come_again(self, office: Office) -> None:
        client = await office.house.connect()
        spam = note(CAROL, "spam")
        await office.call(BOB, "banevent", spam.id)
        assert await client.publish(spam) == (False, BANNED)

        await office.call(BOB, "unbanevent", spam.id)

        assert await client.publish(spam) == (True, "")
        assert await office.call(BOB, "listbannedevents") == []
        assert await office.call(BOB, "listallowedevents") == []
        assert await office.refusal(BOB, "unbanevent", spam.id) == "invalid: this event is not banned"

    async def test_reports_of_an_event_that_is_not_allowed_any_more_are_looked_at(
        self, office: Office
    ) -> None:
        client = await office.house.connect()
        id_ = "5" * 64
        await office.call(BOB, "allowevent", id_, "fine")
        assert await office.call(BOB, "listallowedevents") == [{"id": id_, "reason": "fine"}]

        await office.call(BOB, "unallowevent", id_)
        await client.publish(event(BOB, 1984, tags=[["e", id_, "spam"]]))

        assert await office.call(BOB, "listallowedevents") == []
        assert [one["id"] for one in await office.call(BOB, "listeventsneedingmoderation")] == [id_]
        assert await office.refusal(BOB, "unallowevent", id_) == (
            "invalid: this event is not on the list of allowed ones"
        )

    async def test_refused_kinds_are_listed(self, office: Office) -> None:
        await office.call(ALICE, "disallowkind", 7)
        await office.call(ALICE, "disallowkind", 4)

        assert await office.call(ALICE, "listdisallowedkinds") == [4, 7]
        assert await office.call(ALICE, "listallowedkinds") == []

    async def test_who_is_allowed_is_banned_no_more(self, office: Office) -> None:
        client = await office.house.connect()
        await office.call(ALICE, "banpubkey", C)

        await office.call(ALICE, "allowpubkey", C)
        await office.work()

        assert await office.call(ALICE, "listbannedpubkeys") == []
        assert await client.publish(note(CAROL)) == (True, "")
        assert [one["pubkey"] for one in await office.call(ALICE, "listallowedpubkeys")] == [C]
