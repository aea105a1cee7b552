"""Every probe proves what is true, and finds who lies about it."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import orjson
import pytest

from relay import features, policies
from relay.config import RelayConfig
from relay.doctor.examination import Diagnosis, examine
from relay.doctor.outcome import Verdict
from relay.doctor.probes import NOT_PROVABLE, PROBES
from relay.engine.feature import Context
from relay.features.nip11 import supported_nips
from relay.nostr.event import Event, encode
from relay.nostr.tags import values
from tests.doctor.conftest import ADMIN
from tests.doctor.liar import Lie, Message, Talk, lying, reconciled
from tests.net.house import RELAY_KEY
from tests.serving import UNLIMITED, Served, TorvServe


def claims(diagnosis: Diagnosis, verdict: Verdict) -> list[str]:
    return [finding.claim for finding in diagnosis.findings if finding.verdict is verdict]


async def failing(examined: Served, lie: Lie, nip: int) -> list[str]:
    """Return the claims about one NIP that the lie makes untrue."""
    async with lying(examined.http, lie) as url:
        diagnosis = await examine(url, only={nip}, key=ADMIN)
    return claims(diagnosis, Verdict.FAILED)


def test_every_nip_that_a_relay_may_advertise_has_a_probe_or_a_reason() -> None:
    config = RelayConfig(
        url="wss://relay.test", announce=True, admins=("a" * 64,), names=(f"alice={RELAY_KEY.public}",)
    )
    context = Context(key=RELAY_KEY)
    advertised = supported_nips(features.enabled(config, context, policies.enabled(config, context)))

    assert [nip for nip in advertised if nip not in PROBES and nip not in NOT_PROVABLE] == []


def test_no_nip_has_both_a_probe_and_a_reason_for_none() -> None:
    assert PROBES.keys() & NOT_PROVABLE.keys() == set()


def test_every_probe_is_named_for_its_nip_and_says_what_it_proves() -> None:
    for nip, probes in PROBES.items():
        assert {probe.nip for probe in probes} == {nip}
    all_claims = [probe.claim for probes in PROBES.values() for probe in probes]
    assert len(set(all_claims)) == len(all_claims)


async def test_a_relay_with_everything_on_is_proved(examined: Served) -> None:
    diagnosis = await examine(examined.url, key=ADMIN)

    assert [(f.nip, f.failure) for f in diagnosis.findings if f.verdict is Verdict.FAILED] == []
    assert [(f.nip, f.reason) for f in diagnosis.findings if f.verdict is Verdict.SKIPPED] == []
    assert {finding.nip for finding in diagnosis.findings} == set(diagnosis.information.nips)
    assert diagnosis.left_behind == 0


async def test_a_relay_that_announces_itself_is_proved(torv_serve: TorvServe) -> None:
    served = torv_serve('[relay]\nurl = "ws://127.0.0.1/"\nannounce = true\n' + UNLIMITED, workers=1)

    diagnosis = await examine(served.url, only={66})

    assert [(f.nip, f.verdict, f.failure) for f in diagnosis.findings] == [(66, Verdict.PROVED, None)]


async def test_a_relay_that_demands_proof_of_work_is_given_it(torv_serve: TorvServe) -> None:
    served = torv_serve(UNLIMITED + "min_pow_difficulty = 4\n", workers=1)

    diagnosis = await examine(served.url, only={1, 11, 13})

    assert claims(diagnosis, Verdict.FAILED) == []
    assert claims(diagnosis, Verdict.SKIPPED) == []


async def test_a_relay_of_members_is_proved_to_who_may_write(torv_serve: TorvServe) -> None:
    members = f'[relay]\nadmins = ["{ADMIN.public}"]\n[relay.members]\nenabled = true\nwrite = true\n'
    served = torv_serve(members + UNLIMITED, workers=1)
    some = {1, 9, 43, 59, 62, 70}

    strange = await examine(served.url, only={9})
    known = await examine(served.url, only=some, key=ADMIN)

    assert claims(strange, Verdict.FAILED) == []
    assert len(claims(strange, Verdict.SKIPPED)) == 4
    assert "name an allowed key with --key" in strange.findings[0].reason
    assert {(f.nip, f.verdict, f.reason) for f in known.findings} == {
        (nip, Verdict.PROVED, "") for nip in some
    }


async def test_a_relay_for_who_proved_a_key_is_proved(torv_serve: TorvServe) -> None:
    served = torv_serve(UNLIMITED + "[relay.auth]\nread = true\nwrite = true\n", workers=1)

    diagnosis = await examine(served.url)

    assert [(f.nip, f.claim, f.failure) for f in diagnosis.findings if f.verdict is Verdict.FAILED] == []


# Lies that many NIPs are broken by.


class Hoards(Lie):
    """Shows everything of some kinds that ever was published, to everybody, through REQ."""

    def __init__(self, *kinds: int) -> None:
        super().__init__()
        self.kinds = kinds

    @property
    def hoard(self) -> list[Event]:
        return list({event.id: event for event in self.published if event.kind in self.kinds}.values())

    async def answer(self, talk: Talk, name: str, stored: list[Message], eose: Message) -> Sequence[Message]:
        shown = {message[2]["id"] for message in stored}
        more = [
            ["EVENT", name, orjson.loads(encode(event))]
            for event in self.hoard
            if event.id not in shown and name in talk.wants(event)
        ]
        return [*stored, *more, eose]

    async def from_relay(self, message: Message, talk: Talk) -> Sequence[Message]:
        if message[0] == "CLOSED" and message[1] in talk.filters:
            return await self.answer(talk, message[1], [], ["EOSE", message[1]])
        return [message]


class TellsLive(Hoards):
    """Sends events of some kinds to whoever has asked for them, as they come."""

    async def answer(self, talk: Talk, name: str, stored: list[Message], eose: Message) -> Sequence[Message]:
        return [*stored, eose]

    async def from_client(self, message: Message, talk: Talk) -> Message | None:
        if message[0] == "EVENT" and message[1].get("kind") in self.kinds:
            event = self.published[-1]
            for other in self.talks:
                for name in other.wants(event):
                    await other.say(["EVENT", name, message[1]])
        return message


class TellsCounts(Hoards):
    """Counts what it does not show."""

    async def answer(self, talk: Talk, name: str, stored: list[Message], eose: Message) -> Sequence[Message]:
        return [*stored, eose]

    async def from_client(self, message: Message, talk: Talk) -> Message | None:
        if message[0] == "COUNT":
            await talk.say(["COUNT", message[1], {"count": len(self.hoard)}])
            return None
        return message


class Reconciles(TellsCounts):
    """Tells by Negentropy the ids of what it does not show."""

    async def from_client(self, message: Message, talk: Talk) -> Message | None:
        if message[0] == "NEG-OPEN":
            await talk.say(["NEG-MSG", message[1], reconciled(self.hoard, message[3])])
            return None
        return message


class SaysYes(Lie):
    """Answers OK true, whatever it does."""

    async def from_relay(self, message: Message, talk: Talk) -> Sequence[Message]:
        return [["OK", message[1], True, ""]] if message[0] == "OK" else [message]


class SaysNo(Lie):
    """Refuses what is chosen, as if it were wrong."""

    def __init__(self, is_refused: Callable[[Event], bool], reason: str = "invalid: no") -> None:
        super().__init__()
        self.is_refused = is_refused
        self.reason = reason

    async def from_client(self, message: Message, talk: Talk) -> Message | None:
        if message[0] == "EVENT" and self.published and self.is_refused(self.published[-1]):
            await talk.say(["OK", message[1]["id"], False, self.reason])
            return None
        return message


class RefusesCopies(Lie):
    async def from_client(self, message: Message, talk: Talk) -> Message | None:
        if message[0] == "EVENT" and [one.id for one in self.published].count(message[1].get("id")) > 1:
            await talk.say(["OK", message[1]["id"], False, "duplicate: I have it"])
            return None
        return message


class Deletes(Lie):
    """Hides whatever anybody's events of a kind name."""

    def __init__(self, kind: int) -> None:
        super().__init__()
        self.kind = kind

    async def answer(self, talk: Talk, name: str, stored: list[Message], eose: Message) -> Sequence[Message]:
        gone = {id_ for one in self.published if one.kind == self.kind for id_ in values(one.tags, "e")}
        return [*(message for message in stored if message[2]["id"] not in gone), eose]


class DeletesAddresses(Lie):
    """Keeps an address empty once it was deleted."""

    async def answer(self, talk: Talk, name: str, stored: list[Message], eose: Message) -> Sequence[Message]:
        is_gone = any(values(one.tags, "a") for one in self.published if one.kind == 5)
        return [*(message for message in stored if not (is_gone and message[2]["kind"] == 30_078)), eose]


class Vanishes(Lie):
    """Hides whoever has asked any relay to vanish."""

    async def answer(self, talk: Talk, name: str, stored: list[Message], eose: Message) -> Sequence[Message]:
        gone = {one.pubkey for one in self.published if one.kind == 62}
        return [*(message for message in stored if message[2]["pubkey"] not in gone), eose]


class CountsEveryVote(Lie):
    """Counts what people have taken back."""

    def page(self, path: str, body: bytes) -> bytes:
        if not path.startswith("/api/poll/"):
            return body
        return body.replace(b'"votes":1', b'"votes":2')


class Demands(Lie):
    """Demands a proved key of all who write."""

    async def from_client(self, message: Message, talk: Talk) -> Message | None:
        if message[0] == "EVENT":
            await talk.say(["OK", message[1]["id"], False, "auth-required: who are you?"])
            return None
        return message


class Answers(Lie):
    """Lets everybody call the management API, and answers one thing to all calls but the first."""

    def __init__(self, methods: list[str], result: object = None) -> None:
        super().__init__()
        self.methods = methods
        self.result = result

    def call(self, body: bytes) -> bytes | None:
        is_question = orjson.loads(body)["method"] == "supportedmethods"
        return orjson.dumps({"result": self.methods if is_question else self.result})


class Unsorted(Lie):
    async def answer(self, talk: Talk, name: str, stored: list[Message], eose: Message) -> Sequence[Message]:
        return [*reversed(stored), eose]


class EndsAtOnce(Lie):
    """Says EOSE before the stored events."""

    async def answer(self, talk: Talk, name: str, stored: list[Message], eose: Message) -> Sequence[Message]:
        return [eose, *stored]


class Alters(Lie):
    async def answer(self, talk: Talk, name: str, stored: list[Message], eose: Message) -> Sequence[Message]:
        return [*(["EVENT", name, one[2] | {"content": "altered"}] for one in stored), eose]


class Cuts(Lie):
    """Ends answers at the limit, inside of a second, and says nothing of it."""

    async def answer(self, talk: Talk, name: str, stored: list[Message], eose: Message) -> Sequence[Message]:
        return [*stored[: talk.filters[name][0].limit], eose]


class Hints(Lie):
    def __init__(self, *hints: str) -> None:
        super().__init__()
        self.hints = hints

    async def answer(self, talk: Talk, name: str, stored: list[Message], eose: Message) -> Sequence[Message]:
        return [*stored, ["EOSE", name, list(self.hints)]]


class Asks(Lie):
    """Asks the relay for something else than it was asked for: without some conditions."""

    def __init__(self, *conditions: str) -> None:
        super().__init__()
        self.conditions = conditions

    async def from_client(self, message: Message, talk: Talk) -> Message | None:
        if message[0] != "REQ":
            return message
        return [
            *message[:2],
            *(
                {key: value for key, value in wanted.items() if key not in self.conditions}
                if type(wanted) is dict
                else wanted
                for wanted in message[2:]
            ),
        ]


class Swallows(Lie):
    """Does not pass on some messages."""

    def __init__(self, verb: str, kind: int | None = None) -> None:
        super().__init__()
        self.verb = verb
        self.kind = kind

    async def from_client(self, message: Message, talk: Talk) -> Message | None:
        if message[0] == self.verb and (self.kind is None or message[1].get("kind") == self.kind):
            if self.verb == "EVENT":
                await talk.say(["OK", message[1]["id"], True, ""])
            return None
        return message


class Repeats(Lie):
    """Sends every live event twice."""

    async def from_relay(self, message: Message, talk: Talk) -> Sequence[Message]:
        return [message, message] if message[0] == "EVENT" else [message]


class Mute(Lie):
    """Sends no live events of a kind."""

    def __init__(self, kind: int) -> None:
        super().__init__()
        self.kind = kind

    async def from_relay(self, message: Message, talk: Talk) -> Sequence[Message]:
        return [] if message[0] == "EVENT" and message[2]["kind"] == self.kind else [message]


class HangsUp(Lie):
    async def from_client(self, message: Message, talk: Talk) -> Message | None:
        if message[0] == "TORV-DOCTOR":
            await talk.socket.close()
            return None
        return message


class Proves(Lie):
    """Takes the first key that is proved on a connection, and no other one."""

    def __init__(self) -> None:
        super().__init__()
        self.proved: set[Talk] = set()

    async def from_client(self, message: Message, talk: Talk) -> Message | None:
        if message[0] == "AUTH" and talk in self.proved:
            await talk.say(["OK", message[1]["id"], False, "restricted: one key is enough"])
            return None
        if message[0] == "AUTH":
            self.proved.add(talk)
        return message


class Counts(Lie):
    """Tells another number, and the registers of nobody."""

    def __init__(self, more: int) -> None:
        super().__init__()
        self.more = more

    async def from_relay(self, message: Message, talk: Talk) -> Sequence[Message]:
        if message[0] != "COUNT":
            return [message]
        return [["COUNT", message[1], {"count": message[2]["count"] + self.more, "hll": "00" * 256}]]


class Agrees(Lie):
    """Finds that there is no difference, whatever it is sent."""

    async def from_client(self, message: Message, talk: Talk) -> Message | None:
        if message[0] == "NEG-OPEN":
            await talk.say(["NEG-MSG", message[1], "61"])
            return None
        return message


class Document(Lie):
    """Shows another information document."""

    def __init__(self, fields: dict[str, Any]) -> None:
        super().__init__()
        self.fields = fields

    def document(self, document: dict[str, Any]) -> dict[str, Any]:
        return document | self.fields


class Limits(Lie):
    """Shows other limits."""

    def __init__(self, **limits: Any) -> None:
        super().__init__()
        self.limits = limits

    def document(self, document: dict[str, Any]) -> dict[str, Any]:
        return document | {"limitation": document["limitation"] | self.limits}


class Header(Lie):
    def __init__(self, name: str, value: str | None) -> None:
        super().__init__()
        self.name = name
        self.value = value

    def headers(self, headers: dict[str, str]) -> dict[str, str]:
        others = {name: value for name, value in headers.items() if name.lower() != self.name.lower()}
        return others if self.value is None else others | {self.name: self.value}


class Names(Lie):
    """Vouches for whoever is asked for."""

    def page(self, path: str, body: bytes) -> bytes:
        if path != "/.well-known/nostr.json":
            return body
        return orjson.dumps({"names": {"alice": "ABC"}})


_CORS = "Access-Control-Allow-Origin"


def _is_plain(event: Event) -> bool:
    """Say whether it is a note of now that carries no work."""
    return event.kind == 1 and event.created_at > time.time() - 25 and len(event.tags) == 1


LIES: dict[str, tuple[int, Callable[[], Lie], str]] = {
    "alters events": (1, Alters, "an event is found"),
    "ignores tags": (1, lambda: Asks("#t"), "an event is found"),
    "ignores until": (1, lambda: Asks("until"), "an event is found"),
    "says EOSE first": (1, EndsAtOnce, "an event is found"),
    "refuses copies": (1, RefusesCopies, "a second copy"),
    "accepts forgeries": (1, SaysYes, "wrong ids and signatures"),
    "keeps old profiles": (1, lambda: Hoards(0), "of a replaceable event"),
    "keeps both of a tie": (1, lambda: Hoards(0), "of two versions"),
    "keeps old addresses": (1, lambda: Hoards(30_078), "addressable events"),
    "keeps ephemeral events": (1, lambda: Hoards(20_001), "ephemeral events are"),
    "does not pass ephemeral events on": (1, lambda: Swallows("EVENT", 20_001), "ephemeral events are"),
    "does not sort": (1, Unsorted, "stored events come"),
    "ignores limits": (1, lambda: Asks("limit"), "stored events come"),
    "repeats live events": (1, Repeats, "live events follow"),
    "ignores CLOSE": (1, lambda: Swallows("CLOSE"), "closed and replaced"),
    "hangs up on nonsense": (1, HangsUp, "nonsense"),
    "shows messages": (4, lambda: Hoards(4), "direct messages"),
    "sends messages live": (4, lambda: TellsLive(4), "direct messages"),
    "counts messages": (4, lambda: TellsCounts(4), "direct messages"),
    "reconciles messages": (4, lambda: Reconciles(4), "direct messages"),
    "vouches for anybody": (5, Names, "the host vouches"),
    "keeps names from web pages": (5, lambda: Header(_CORS, None), "the host vouches"),
    "ignores deletions": (9, lambda: Hoards(1), "authors delete"),
    "deletes for anybody": (9, lambda: Deletes(5), "nobody deletes"),
    "ignores deletions of addresses": (9, lambda: Hoards(30_078), "an address is deleted"),
    "deletes addresses for ever": (9, DeletesAddresses, "an address is deleted"),
    "deletes deletions": (9, lambda: Deletes(5), "deletion requests"),
    "has a number for a name": (11, lambda: Document({"name": 7}), "the document"),
    "has a word for a limit": (11, lambda: Limits(max_limit="many"), "the document"),
    "hides the document from web pages": (11, lambda: Header(_CORS, None), "the document"),
    "serves HTML": (11, lambda: Header("Content-Type", "text/html"), "the document"),
    "lists no NIPs": (11, lambda: Document({"supported_nips": []}), "the document"),
    "claims to demand keys": (11, lambda: Limits(auth_required=True), "who may read and write"),
    "demands keys silently": (11, Demands, "who may read and write"),
    "has fewer subscriptions": (11, lambda: Limits(max_subscriptions=70), "as many subscriptions"),
    "has shorter names": (11, lambda: Limits(max_subid_length=80), "names of subscriptions"),
    "takes the far future": (11, lambda: Limits(created_at_upper_limit=10), "events beyond"),
    "takes the distant past": (11, lambda: Limits(created_at_lower_limit=10), "events beyond"),
    "takes many tags": (11, lambda: Limits(max_event_tags=5), "events beyond"),
    "takes long content": (11, lambda: Limits(max_content_length=50), "events beyond"),
    "demands no work": (13, lambda: Limits(min_pow_difficulty=6), "proof of work"),
    "demands work silently": (13, lambda: SaysNo(_is_plain, "pow: work first"), "proof of work"),
    "shows wraps of yesterday": (17, lambda: Hoards(1059), "wraps dated back"),
    "refuses wraps of yesterday": (17, lambda: SaysNo(lambda event: event.kind == 1059), "wraps dated back"),
    "loses inboxes": (17, lambda: Swallows("EVENT", 10_050), "lists of inbox relays"),
    "lets anybody into groups": (29, SaysYes, "a group is made"),
    "keeps deleted groups": (29, lambda: Swallows("EVENT", 9008), "a group is made"),
    "names another key": (29, lambda: Document({"self": "a" * 64}), "a group is made"),
    "shows private groups": (29, lambda: Hoards(9), "what is said in a private group"),
    "takes what has expired": (40, SaysYes, "what has expired"),
    "shows what has expired": (40, lambda: Hoards(1), "events are gone"),
    "counts what has expired": (40, lambda: TellsCounts(1), "events are gone"),
    "takes one key only": (42, Proves, "right proofs"),
    "takes wrong proofs": (42, SaysYes, "wrong proofs"),
    "passes proofs on": (42, lambda: TellsLive(22_242), "proofs are not passed on"),
    "lets anybody join": (43, SaysYes, "nobody joins"),
    "makes no members": (43, lambda: Swallows("EVENT", 28_934), "who joins"),
    "lets nobody leave": (43, lambda: Swallows("EVENT", 28_936), "who joins"),
    "miscounts": (45, lambda: Counts(1), "counts are exact"),
    "has wrong registers": (45, lambda: Counts(0), "HyperLogLog"),
    "does not search": (50, lambda: Asks("search"), "notes are found"),
    "searches all kinds": (50, lambda: Asks("kinds"), "notes are found"),
    "hides what is reported": (56, lambda: Deletes(1984), "reports are kept"),
    "loses reports": (56, lambda: Swallows("EVENT", 1984), "reports of moderators"),
    "shows wraps": (59, lambda: Hoards(1059), "gift wraps"),
    "sends wraps live": (59, lambda: TellsLive(1059), "gift wraps"),
    "counts wraps": (59, lambda: TellsCounts(1059), "gift wraps"),
    "reconciles wraps": (59, lambda: Reconciles(1059), "gift wraps"),
    "sends ephemeral wraps": (59, lambda: TellsLive(21_059), "ephemeral gift wraps"),
    "lets nobody vanish": (62, lambda: Swallows("EVENT", 62), "who vanishes"),
    "shows who has vanished": (62, lambda: Hoards(1), "who vanishes"),
    "keeps wraps of who has vanished": (62, lambda: Hoards(1059), "who vanishes"),
    "takes nobody back": (62, lambda: SaysNo(_is_plain), "who vanishes"),
    "makes people vanish for others": (62, Vanishes, "requests to vanish from other relays"),
    "keeps old relay lists": (65, lambda: Hoards(10_002), "relay lists"),
    "always says finish": (67, lambda: Hints("finish"), "finish is said"),
    "never says finish": (67, lambda: Hints("more"), "finish is said"),
    "cuts seconds": (67, Cuts, "paging by seconds"),
    "takes protected events": (70, SaysYes, "protected events are refused"),
    "takes no protected events": (
        70, lambda: SaysNo(lambda event: ("-",) in event.tags), "protected events are taken"),
    "finds no differences": (77, Agrees, "a reconciliation"),
    "takes broken frames": (77, Agrees, "broken frames"),
    "lets anybody call": (86, lambda: Answers([]), "strangers may not call"),
    "takes any signature": (86, lambda: Answers(["listallowedkinds"]), "calls take a right signature"),
    "has lists that are none": (86, lambda: Answers(["listallowedkinds"], {"a": 1}), "the lists"),
    "bans nobody": (86, lambda: Answers(["banpubkey", "unbanpubkey"], True), "who is banned"),
    "loses votes": (88, lambda: Swallows("EVENT", 1018), "polls and their votes"),
    "counts every vote": (88, CountsEveryVote, "where the relay counts"),
}  # fmt: skip
"""By what somebody does: the NIP, who does it, and how the claim begins that is found to be untrue."""


@pytest.mark.parametrize("name", LIES)
async def test_a_relay_that(name: str, examined: Served) -> None:
    nip, lie, claim = LIES[name]

    untrue = await failing(examined, lie(), nip)

    assert [one for one in untrue if one.startswith(claim)] != [], untrue


async def test_who_stands_between_and_tells_the_truth_changes_nothing(examined: Served) -> None:
    async with lying(examined.http, Lie()) as url:
        diagnosis = await examine(url, key=ADMIN)

    assert [(f.nip, f.failure) for f in diagnosis.findings if f.verdict is Verdict.FAILED] == []


def test_every_claim_is_broken_by_some_lie() -> None:
    unbroken = [
        probe.claim
        for nip, probes in PROBES.items()
        for probe in probes
        if not any(nip == of and probe.claim.startswith(claim) for of, _, claim in LIES.values())
    ]

    assert unbroken == [
        # A relay that lies about its announcement is one of its own: see below.
        "the relay announces itself (kind 30166), truthfully",
        # That of NIP-86 by another name.
        "HTTP requests are authorised by right signatures only",
    ]


async def test_a_relay_whose_announcement_is_not_true(torv_serve: TorvServe) -> None:
    served = torv_serve('[relay]\nurl = "ws://127.0.0.1/"\nannounce = true\n' + UNLIMITED, workers=1)

    lie = Document({"supported_nips": [1, 11, 66]})

    assert await failing(served, lie, 66) == ["the relay announces itself (kind 30166), truthfully"]
