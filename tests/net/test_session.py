"""One client's conversation, as text in and actions out."""

from collections.abc import Mapping

import orjson
import pytest

from relay.config import LimitsConfig
from relay.engine.feature import Conversation, Handler, Origin
from relay.net.incoming import Broken
from relay.net.session import Action, Answer, NotText, Session
from relay.nostr.event import encode
from relay.nostr.messages import (
    Auth,
    ClientMessage,
    Close,
    Closed,
    Count,
    Notice,
    Ok,
    Publish,
    RelayMessage,
    Req,
)
from tests.events import ALICE, BOB, NOW, note, pubkey

EVENT = note(ALICE, "hello")


class Talk:
    """A session and its buckets."""

    def __init__(self, handlers: Mapping[type[ClientMessage], Handler] | None = None, **limits: int) -> None:
        self.events = self.requests = self.others = 1_000_000
        """What is left in the address's buckets."""
        self.session = Session(
            origin=Origin(address="192.0.2.1", url="ws://relay.test/"),
            challenge="challenge",
            limits=LimitsConfig.model_validate(limits),
            exempt=frozenset({pubkey(BOB)}),
            handlers=handlers or {},
            allow_event=self._event,
            allow_request=self._request,
            allow_other=self._other,
        )

    def _event(self) -> bool:
        self.events -= 1
        return self.events >= 0

    def _request(self) -> bool:
        self.requests -= 1
        return self.requests >= 0

    def _other(self) -> bool:
        self.others -= 1
        return self.others >= 0

    def say(self, *message: object) -> Action:
        return self.session.receive(orjson.dumps(message), NOW)

    def publish(self) -> Action:
        return self.session.receive(b'["EVENT",' + encode(EVENT) + b"]", NOW)

    def closed(self, *message: object) -> tuple[str, str]:
        """Return (subscription, reason) of the CLOSED that this message gets."""
        match self.say(*message):
            case Answer((Closed(name, reason),), True):
                return name, reason
        raise AssertionError("not refused")


def test_an_event_is_to_be_published() -> None:
    assert Talk().publish() == Publish(EVENT, encode(EVENT))


def test_a_request_is_to_be_served() -> None:
    action = Talk().say("REQ", "s", {"kinds": [1]}, {})

    assert isinstance(action, Req)
    assert action.subscription == "s"
    assert [wanted.kinds for wanted in action.filters] == [frozenset({1}), None]


def test_a_count_is_to_be_made() -> None:
    assert isinstance(Talk().say("COUNT", "q", {}), Count)


def test_a_close_is_to_be_done_even_of_an_unknown_name() -> None:
    assert Talk().say("CLOSE", "never opened") == Close("never opened")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"null",
        b"{}",
        b"[]",
        b"[1]",
        b'"EVENT"',
        b'["EVENT"]',
        b'["EVENT",{}]',
        b'["EVENT",1,2]',
        b'["REQ"]',
        b'["REQ",1,{}]',
        b'["REQ","",{}]',
        b'["REQ","' + b"x" * 65 + b'",{}]',
        b'["CLOSE"]',
        b'["CLOSE",null]',
        b'["COUNT"]',
        b'["AUTH"]',
        b'["AUTH","challenge"]',
        b'["HELLO"]',
        b'["req","s",{}]',
        b"[" * 100_000,
        b'["REQ","s",' + b"[" * 2_000 + b"]" * 2_000 + b"]",
        b'["NEG-OPEN"]',
        b"\xef\xbb\xbf[]",
        b'["\\ud800"]',
        b"NaN",
        b"1e999",
    ],
    ids=lambda text: text[:20].decode("ascii", "replace"),
)
def test_a_malformed_message_gets_a_notice(text: bytes) -> None:
    action = Talk().session.receive(text, NOW)

    assert isinstance(action, Answer)
    assert action.mistake
    (notice,) = action.messages
    assert isinstance(notice, Notice)
    assert notice.text.startswith(("invalid: ", "unsupported: "))


def test_an_unknown_message_is_unsupported() -> None:
    assert Talk().say("HELLO", "x") == Answer(
        (Notice("unsupported: unknown message type 'HELLO'"),), mistake=True
    )


def test_a_message_whose_feature_is_off_is_unsupported() -> None:
    auth = b'["AUTH",' + encode(EVENT) + b"]"

    assert Talk().session.receive(auth, NOW) == Answer(
        (Notice("unsupported: AUTH is switched off"),), mistake=True
    )


@pytest.mark.parametrize(
    "text", [b"\xff", b'["EVENT","\xc3\x28"]', b'["REQ","\xed\xa0\x80",{}]', b"\x00\xfe\xff"]
)
def test_what_is_not_utf_8_is_not_text(text: bytes) -> None:
    with pytest.raises(NotText):
        Talk().session.receive(text, NOW)


def test_a_malformed_event_with_an_id_gets_ok_false() -> None:
    assert Talk().say("EVENT", {"id": "x", "kind": "1"}) == Answer(
        (Ok("x", False, "invalid: the event has no pubkey"),), mistake=True
    )


@pytest.mark.parametrize("verb", ["REQ", "COUNT"])
@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ([], "invalid: a filter is a JSON object"),
        ({"ids": ["X"]}, "invalid: ids must hold 64 lowercase hex digits each"),
        ({"limit": -1}, "invalid: limit must not be negative"),
        ({"&t": ["x"]}, "unsupported: filter contains unknown elements: '&t'"),
        ({"search": 7}, "invalid: search must be a string"),
    ],
)
def test_a_filter_that_is_refused_gets_closed(verb: str, wanted: object, reason: str) -> None:
    assert Talk().closed(verb, "s", wanted) == ("s", reason)


def test_a_subscription_name_is_counted_in_characters() -> None:
    talk = Talk()

    assert isinstance(talk.say("REQ", "é" * 64, {}), Req)
    assert isinstance(talk.say("REQ", "é" * 65, {}), Answer)


def test_subscriptions_are_limited() -> None:
    talk = Talk(max_subscriptions=2)
    talk.say("REQ", "a", {})
    talk.say("REQ", "b", {})

    assert talk.closed("REQ", "c", {}) == ("c", "rate-limited: at most 2 subscriptions at a time")


def test_replacing_a_subscription_takes_no_more_room() -> None:
    talk = Talk(max_subscriptions=2)

    for _ in range(3):
        assert isinstance(talk.say("REQ", "a", {}), Req)
    assert isinstance(talk.say("REQ", "b", {}), Req)


@pytest.mark.parametrize(
    "ending", [("CLOSE", "a"), ("REQ", "a", []), ("REQ", "a"), ("REQ", "a", {"&t": ["x"]})]
)
def test_closing_or_a_refused_replacement_makes_room(ending: tuple[object, ...]) -> None:
    talk = Talk(max_subscriptions=1)
    talk.say("REQ", "a", {})

    talk.say(*ending)

    assert isinstance(talk.say("REQ", "b", {}), Req)


def test_a_subscription_that_the_relay_ended_makes_room() -> None:
    talk = Talk(max_subscriptions=1)
    talk.say("REQ", "a", {})

    talk.session.ended("a")
    talk.session.ended("unknown")

    assert isinstance(talk.say("REQ", "b", {}), Req)


def test_a_refused_new_subscription_does_not_end_another() -> None:
    talk = Talk(max_subscriptions=1)
    talk.say("REQ", "a", {})

    talk.closed("REQ", "b", {})

    assert talk.closed("REQ", "c", {})[1].startswith("rate-limited: ")


def test_counts_are_not_subscriptions() -> None:
    talk = Talk(max_subscriptions=1)
    talk.say("REQ", "a", {})

    assert isinstance(talk.say("COUNT", "b", {}), Count)


@pytest.mark.parametrize("verb", ["REQ", "COUNT"])
def test_filters_are_limited(verb: str) -> None:
    talk = Talk(max_filters=2)

    assert not isinstance(talk.say(verb, "s", {}, {}), Answer)
    assert talk.closed(verb, "s", {}, {}, {}) == ("s", "invalid: 3 filters, this relay takes 2")


@pytest.mark.parametrize("verb", ["REQ", "COUNT"])
def test_the_values_of_one_filter_are_limited_all_together(verb: str) -> None:
    talk = Talk(max_filter_values=4)
    values = {"ids": ["a" * 64], "authors": ["a" * 64], "kinds": [1], "#t": ["x"]}

    assert not isinstance(talk.say(verb, "s", values, values), Answer)
    assert talk.closed(verb, "s", {}, {**values, "#p": ["a" * 64]}) == (
        "s",
        "invalid: 5 values in one filter, this relay takes 4",
    )


def test_events_beyond_the_buckets_are_refused() -> None:
    talk = Talk(events_per_minute=7)
    talk.events = 1

    assert isinstance(talk.publish(), Publish)
    assert talk.publish() == Answer(
        (Ok(EVENT.id, False, "rate-limited: at most 7 events a minute from one address"),), mistake=True
    )


@pytest.mark.parametrize("verb", ["REQ", "COUNT"])
def test_requests_beyond_the_buckets_are_refused(verb: str) -> None:
    talk = Talk(requests_per_minute=7)
    talk.requests = 1

    assert not isinstance(talk.say(verb, "s", {}), Answer)
    assert talk.closed(verb, "s", {}) == ("s", "rate-limited: at most 7 requests a minute from one address")


def test_a_key_of_our_own_bridge_is_not_asked_for_tokens() -> None:
    talk = Talk()
    talk.events = talk.requests = 0

    talk.session.authenticate(pubkey(ALICE))
    assert isinstance(talk.publish(), Answer)
    talk.session.authenticate(pubkey(BOB))

    assert isinstance(talk.publish(), Publish)
    assert isinstance(talk.say("REQ", "s", {}), Req)
    assert talk.session.origin.exempt
    assert talk.session.origin.authenticated == {ALICE.public, BOB.public}


def test_the_bridge_stays_exempt_when_it_proves_more_keys() -> None:
    talk = Talk()
    talk.events = 0

    talk.session.authenticate(pubkey(BOB))
    talk.session.authenticate(pubkey(ALICE))

    assert isinstance(talk.publish(), Publish)


def test_a_feature_answers_its_own_messages() -> None:
    heard: list[tuple[ClientMessage, str, int]] = []

    def handler(message: ClientMessage, conversation: Conversation, now: int) -> list[RelayMessage]:
        heard.append((message, conversation.challenge, now))
        return [Notice("one"), Notice("two")]

    answer = Talk({Auth: handler}).session.receive(b'["AUTH",' + encode(EVENT) + b"]", NOW)

    assert answer == Answer((Notice("one"), Notice("two")))
    assert heard == [(Auth(EVENT), "challenge", NOW)]


def test_what_makes_no_sense_has_a_bucket_of_its_own() -> None:
    talk = Talk()
    talk.events, talk.requests, talk.others = 0, 0, 2

    assert isinstance(talk.say("NONSENSE"), Answer)
    assert isinstance(talk.say("REQ", "s", {"ids": ["x"]}), Answer)

    with pytest.raises(Broken) as broken:
        talk.say("NONSENSE")
    assert broken.value.code == 1008


def test_auth_messages_are_limited_by_the_same_bucket() -> None:
    asked: list[ClientMessage] = []

    def handle(message: ClientMessage, conversation: Conversation, now: int) -> list[RelayMessage]:
        asked.append(message)
        return []

    talk = Talk({Auth: handle}, others_per_minute=1)
    talk.others = 1
    auth = [orjson.loads(encode(EVENT))]

    assert talk.say("AUTH", *auth) == Answer(())
    refused = Ok(EVENT.id, False, "rate-limited: at most 1 AUTH messages a minute from one address")
    assert talk.say("AUTH", *auth) == Answer((refused,), mistake=True)
    assert len(asked) == 1


def test_who_proved_an_exempt_key_may_make_mistakes() -> None:
    talk = Talk()
    talk.others = 0
    talk.session.authenticate(pubkey(BOB))

    assert isinstance(talk.say("NONSENSE"), Answer)
