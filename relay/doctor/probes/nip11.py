"""NIP-11: the document is served as it has to be, its fields have their types, and its limits are true."""

import re
from collections.abc import Callable, Mapping

from relay.doctor.information import MEDIA_TYPE
from relay.doctor.outcome import Skipped, expect
from relay.doctor.probes.probe import Probe
from relay.doctor.visit import Visit
from relay.doctor.wire import shown
from relay.nostr.filter import Filter
from relay.nostr.reasons import Prefix, prefix_of
from relay.nostr.tags import HEX_64

_ASKED = f"GET with Accept: {MEDIA_TYPE}"
_MAX_SUBSCRIPTIONS_TRIED = 200
_MAX_TAGS_TRIED = 20_000
_MAX_CHARS_TRIED = 2**20
_MARGIN_SECONDS = 120
"""By which clocks may differ."""


def _is_text(value: object) -> bool:
    return type(value) is str


def _is_key(value: object) -> bool:
    return type(value) is str and bool(HEX_64(value))


def _is_flag(value: object) -> bool:
    return type(value) is bool


def _is_number(value: object) -> bool:
    return type(value) is int and value >= 0


def _are_numbers(value: object) -> bool:
    return type(value) is list and all(map(_is_number, value))


_FIELDS: Mapping[str, tuple[Callable[[object], bool], str]] = {
    **dict.fromkeys(
        ("name", "description", "banner", "icon", "contact", "software", "version", "terms_of_service"),
        (_is_text, "a string"),
    ),
    **dict.fromkeys(("pubkey", "self"), (_is_key, "a public key of 64 lowercase hex digits")),
    "supported_nips": (_are_numbers, "an array of numbers"),
    "limitation": (lambda value: type(value) is dict, "an object"),
}
_LIMITS: Mapping[str, tuple[Callable[[object], bool], str]] = {
    **dict.fromkeys(
        (
            "max_message_length",
            "max_subscriptions",
            "max_limit",
            "max_subid_length",
            "max_event_tags",
            "max_content_length",
            "min_pow_difficulty",
            "created_at_lower_limit",
            "created_at_upper_limit",
            "default_limit",
        ),
        (_is_number, "a number"),
    ),
    **dict.fromkeys(("auth_required", "payment_required", "restricted_writes"), (_is_flag, "true or false")),
}


async def document_is_well_formed(visit: Visit) -> None:
    information = visit.information
    answer = information.answer
    expect(answer.status == 200, sent=_ASKED, expected="status 200", came=f"{answer.status} came")
    kind = answer.headers.get("content-type", "")
    expect(
        re.split(r"[;\s]", kind)[0] in (MEDIA_TYPE, "application/json"),
        sent=_ASKED,
        expected=f"Content-Type: {MEDIA_TYPE}",
        came=f"{kind!r} came",
    )
    expect(
        bool(information.document), sent=_ASKED, expected="a JSON object", came=f"{answer.body[:80]!r} came"
    )
    for header in (
        "access-control-allow-origin",
        "access-control-allow-headers",
        "access-control-allow-methods",
    ):
        expect(
            header in answer.headers,
            sent=_ASKED,
            expected=f"the header {header}, so that web pages may read it",
            came="it was missing",
        )
    _check_fields(information.document, _FIELDS, "")
    _check_fields(information.limitation, _LIMITS, "limitation.")
    expect(
        bool(information.nips),
        sent=_ASKED,
        expected="supported_nips that names the NIPs",
        came="none were named",
    )


def _check_fields(
    found: Mapping[str, object], right: Mapping[str, tuple[Callable[[object], bool], str]], prefix: str
) -> None:
    for name, value in found.items():
        # What the NIP does not name is not its business.
        if name in right and value is not None:
            fits, wanted = right[name]
            expect(fits(value), sent=_ASKED, expected=f"{prefix}{name}: {wanted}", came=f"{value!r:.80} came")


async def doors_are_as_open_as_it_says(visit: Visit) -> None:
    information = visit.information
    async with visit.dial_as_nobody() as wire:
        _, answer = await wire.subscribe(Filter(ids=frozenset({"0" * 64}), limit=1))
        prefix = prefix_of(answer.refusal or "")
        if information.says("auth_required"):
            expect(
                prefix is Prefix.AUTH_REQUIRED,
                sent="a REQ by somebody who proved no key, where auth_required is true",
                expected="CLOSED auth-required: …",
                came=f"{answer.refusal!r} came" if answer.refusal else "EOSE came",
            )
            return
        event = visit.event(visit.newcomer())
        ok = await visit.publish(wire, event)
        restricting = (Prefix.AUTH_REQUIRED, Prefix.RESTRICTED)
        if not (information.says("restricted_writes") or information.says("payment_required")):
            expect(
                prefix_of(ok.reason) not in restricting,
                sent=f"EVENT {shown(event)} by a newcomer, where restricted_writes is false",
                expected="that newcomers may write",
                came=f"{ok.reason!r} came",
            )


async def subscriptions_may_be_as_many(visit: Visit) -> None:
    most = visit.information.limit("max_subscriptions")
    if most is None:
        raise Skipped("the document does not say how many")
    if most > _MAX_SUBSCRIPTIONS_TRIED:
        raise Skipped(f"{most} subscriptions are more than a probe opens")
    nothing = Filter(ids=frozenset({"0" * 64}), limit=1)
    async with visit.dial() as wire:
        await visit.found(wire, nothing)
        for number in range(1, most + 1):
            _, answer = await wire.subscribe(nothing)
            expect(
                answer.refusal is None,
                sent=f"REQ number {number}, where max_subscriptions is {most}",
                expected="EOSE",
                came=f"CLOSED {answer.refusal!r} came",
            )


async def names_may_be_as_long(visit: Visit) -> None:
    most = visit.information.limit("max_subid_length")
    if most is None:
        raise Skipped("the document does not name max_subid_length")
    async with visit.dial() as wire:
        nothing = Filter(ids=frozenset({"0" * 64}), limit=1)
        await visit.found(wire, nothing)
        _, answer = await wire.subscribe(nothing, name="d" * most)
        expect(
            answer.refusal is None,
            sent=f"a REQ whose name has {most} characters, which max_subid_length allows",
            expected="EOSE",
            came=f"CLOSED {answer.refusal!r} came",
        )


async def events_are_bounded_as_it_says(visit: Visit) -> None:
    information = visit.information
    author = visit.newcomer()
    room = information.limit("max_message_length") or _MAX_CHARS_TRIED
    too_much = []
    tags, chars = information.limit("max_event_tags"), information.limit("max_content_length")
    if tags is not None and tags < _MAX_TAGS_TRIED and 20 * tags < room:
        event = visit.event(author, tags=[["z", "1"]] * (tags + 1))
        too_much.append((event, f"with more tags than max_event_tags = {tags}"))
    if chars is not None and chars < _MAX_CHARS_TRIED and chars + 1024 < room:
        event = visit.event(author, content="d" * (chars + 1))
        too_much.append((event, f"with more characters than max_content_length = {chars}"))
    ahead = information.limit("created_at_upper_limit")
    if ahead is not None and ahead < 2**31:
        event = visit.event(author, age=-(ahead + _MARGIN_SECONDS))
        too_much.append((event, f"further in the future than created_at_upper_limit = {ahead}"))
    back = information.limit("created_at_lower_limit")
    if back is not None and back < visit.now() - _MARGIN_SECONDS:
        event = visit.event(author, age=back + _MARGIN_SECONDS)
        too_much.append((event, f"older than created_at_lower_limit = {back}"))
    if not too_much:
        raise Skipped("the document bounds no events, or wider than a probe tries")
    async with visit.dial() as wire:
        for event, why in too_much:
            await visit.refused(wire, event, why)


PROBES = (
    Probe(11, "the document is served for everybody, its fields have their types", document_is_well_formed),
    Probe(11, "who may read and write is as the document says", doors_are_as_open_as_it_says),
    Probe(11, "as many subscriptions are open as max_subscriptions says", subscriptions_may_be_as_many),
    Probe(11, "names of subscriptions are as long as max_subid_length says", names_may_be_as_long),
    Probe(11, "events beyond the document's limits are refused", events_are_bounded_as_it_says),
)
