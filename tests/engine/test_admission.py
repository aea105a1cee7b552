"""Rules and effects: their order, and who may trust what."""

from dataclasses import replace

from relay.engine.admission import Admission
from relay.engine.feature import Effect, Feature, OfKinds, Origin, Rule
from relay.nostr import kinds
from relay.nostr.event import Event
from relay.nostr.reasons import Prefix, Refusal
from relay.store.api import Write
from tests.events import ALICE, NOW, note

ORIGIN = Origin(address="192.0.2.1", url="ws://relay.test/")
EVENT = note(ALICE, "hello")


def rule(name: str, seen: list[str], *, refuses: bool = False) -> Rule:
    def refuse(event: Event, origin: Origin, now: int) -> Refusal | None:
        assert (event, origin, now) == (EVENT, ORIGIN, NOW)
        seen.append(name)
        return Refusal(Prefix.BLOCKED, name) if refuses else None

    return refuse


def effect(add: int) -> Effect:
    return lambda write: replace(write, expires_at=(write.expires_at or 0) * 10 + add)


def test_rules_are_asked_in_order_until_the_first_refusal() -> None:
    seen: list[str] = []
    first = Feature("first", before_signature=(rule("a", seen), rule("b", seen)))
    second = Feature(
        "second", before_signature=(rule("c", seen, refuses=True), rule("d", seen, refuses=True))
    )
    third = Feature("third", before_signature=(rule("e", seen),))

    refusal = Admission([first, second, third]).before_signature(EVENT, ORIGIN, NOW)

    assert str(refusal) == "blocked: c"
    assert seen == ["a", "b", "c"]


def test_rules_that_trust_the_author_are_a_stage_of_their_own() -> None:
    seen: list[str] = []
    before, after = rule("before", seen), rule("after", seen, refuses=True)
    admission = Admission([Feature("f", before_signature=(before,), after_signature=(after,))])

    assert admission.before_signature(EVENT, ORIGIN, NOW) is None
    assert seen == ["before"]
    assert str(admission.after_signature(EVENT, ORIGIN, NOW)) == "blocked: after"
    assert seen == ["before", "after"]


def test_no_features_refuse_nothing_and_add_nothing() -> None:
    admission = Admission([])

    assert admission.before_signature(EVENT, ORIGIN, NOW) is None
    assert admission.after_signature(EVENT, ORIGIN, NOW) is None
    assert admission.effects(EVENT, b"{}") == Write(EVENT, b"{}")


def test_effects_apply_in_order() -> None:
    admission = Admission([Feature("a", effects=(effect(1), effect(2))), Feature("b", effects=(effect(3),))])

    assert admission.effects(EVENT, b"{}").expires_at == 123


def test_parts_for_other_kinds_are_not_met() -> None:
    seen: list[str] = []
    admission = Admission(
        [
            Feature(
                "f",
                before_signature=(
                    OfKinds(range(2, 9).__contains__, rule("other", seen, refuses=True)),
                    rule("all", seen),
                    OfKinds(kinds.NOTE.__eq__, rule("notes", seen)),
                ),
                after_signature=(OfKinds(kinds.PROFILE.__eq__, rule("profiles", seen)),),
                effects=(
                    OfKinds(kinds.PROFILE.__eq__, effect(1)),
                    OfKinds(kinds.NOTE.__eq__, effect(2)),
                    effect(3),
                ),
            )
        ]
    )

    assert admission.before_signature(EVENT, ORIGIN, NOW) is None
    assert admission.after_signature(EVENT, ORIGIN, NOW) is None
    assert seen == ["all", "notes"]
    assert admission.effects(EVENT, b"{}").expires_at == 23


def test_canonical_json_is_made_where_the_caller_has_none() -> None:
    write = Admission([]).effects(EVENT, live=False)

    assert write.json.startswith(b'{"id":"' + EVENT.id.encode())
    assert write.json.endswith(b'"}')
    assert write.live is False


def test_a_rule_that_fails_refuses_the_event_and_nothing_else() -> None:
    def broken(event: Event, origin: Origin, now: int) -> Refusal | None:
        raise ZeroDivisionError

    admission = Admission([Feature("f", before_signature=(broken,), after_signature=(broken,))])

    for judge in (admission.before_signature, admission.after_signature):
        assert str(judge(EVENT, ORIGIN, NOW)) == "error: the relay could not judge this event"
