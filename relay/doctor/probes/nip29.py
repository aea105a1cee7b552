"""NIP-29: a group's life: made, joined, spoken in, hidden from others, left and deleted."""

from collections.abc import Sequence
from secrets import token_hex

from relay.doctor.outcome import Skipped, expect
from relay.doctor.probes.probe import Probe
from relay.doctor.visit import Visit
from relay.doctor.wire import Wire, shown, shown_all
from relay.nostr.event import Event
from relay.nostr.filter import Filter
from relay.nostr.keys import SecretKey
from relay.nostr.tags import values

_PUT_USER, _REMOVE_USER, _EDIT, _CREATE, _DELETE = 9000, 9001, 9002, 9007, 9008
_METADATA, _ADMINS, _MEMBERS = 39_000, 39_001, 39_002
_CHAT = 9


class _Group:
    """A group made for one probe."""

    def __init__(self, visit: Visit) -> None:
        self.visit = visit
        self.id = f"doctor{token_hex(6)}"
        self.owner = visit.newcomer()

    def event(self, author: SecretKey, kind: int, *tags: Sequence[str], content: str = "") -> Event:
        # What manages a group must not expire: the relay's lists follow from it.
        return self.visit.event(author, kind, content, tags=[["h", self.id], *tags], lasts=kind != _CHAT)

    async def do(self, wire: Wire, kind: int, *tags: Sequence[str]) -> None:
        """Have the owner do something that owners may."""
        await self.visit.keep(wire, self.event(self.owner, kind, *tags))

    async def notice(self, wire: Wire, kind: int) -> Event:
        """Return what the relay says of the group. Raises Failed where it says nothing."""
        answer = await self.visit.found(
            wire, Filter(kinds=frozenset({kind}), tags={"d": frozenset({self.id})})
        )
        expect(
            len(answer.events) == 1,
            sent=f"REQ for kind {kind} of a group that was made",
            expected="one event, signed by the relay",
            came=shown_all(answer.events),
        )
        (event,) = answer.events
        self_key = self.visit.information.self_key
        expect(
            self_key is None or event.pubkey == self_key,
            sent=f"REQ for kind {kind} of a group",
            expected=f"an event of the relay's own key {self_key}",
            came=f"one of {event.pubkey} came",
        )
        return event

    async def delete(self, wire: Wire) -> None:
        await self.do(wire, _DELETE)


async def groups_are_kept(visit: Visit) -> None:
    group, member, stranger = _Group(visit), visit.newcomer(), visit.newcomer()
    async with visit.dial(group.owner) as wire, visit.dial(member) as others:
        await group.do(wire, _CREATE)
        try:
            await group.do(wire, _EDIT, ["name", "torv doctor"], ["public"], ["restricted"], ["closed"])
            metadata = await group.notice(wire, _METADATA)
            expect(
                values(metadata.tags, "name") == ["torv doctor"],
                sent="kind 9002 with a name, then REQ for kind 39000",
                expected="the name",
                came=f"{values(metadata.tags, 'name')} came",
            )
            admins = await group.notice(wire, _ADMINS)
            expect(
                group.owner.public in values(admins.tags, "p"),
                sent="REQ for kind 39001",
                expected="who made the group among its admins",
                came=f"{values(admins.tags, 'p')} came",
            )
            await visit.refused(
                others,
                group.event(member, _CHAT, content="hello"),
                "to a restricted group by no member of it",
            )
            await visit.refused(
                others,
                group.event(stranger, _PUT_USER, ["p", stranger.public]),
                "by which a stranger would make himself a member",
            )
            await group.do(wire, _PUT_USER, ["p", member.public])
            said = group.event(member, _CHAT, content="hello")
            await visit.keep(others, said)
            answer = await visit.found(
                others, Filter(kinds=frozenset({_CHAT}), tags={"h": frozenset({group.id})})
            )
            expect(
                answer.ids == [said.id],
                sent=f"REQ for what was said in the group: {shown(said)}",
                expected="it",
                came=shown_all(answer.events),
            )
            await group.do(wire, _REMOVE_USER, ["p", member.public])
            await visit.refused(
                others, group.event(member, _CHAT, content="again"), "by a member who was removed"
            )
        finally:
            await group.delete(wire)
        answer = await visit.found(
            wire, Filter(kinds=frozenset({_METADATA}), tags={"d": frozenset({group.id})})
        )
        expect(
            not answer.events,
            sent="kind 9008, which deletes the group, then REQ for its kind 39000",
            expected="nothing",
            came=shown_all(answer.events),
        )


async def private_groups_are_private(visit: Visit) -> None:
    group = _Group(visit)
    spoken = Filter(kinds=frozenset({_CHAT}), tags={"h": frozenset({group.id})})
    async with (
        visit.dial_proved(group.owner, writes=True) as wire,
        visit.dial_as_nobody() as nobody,
        visit.dial_proved(visit.newcomer()) as stranger,
    ):
        await group.do(wire, _CREATE)
        try:
            await group.do(wire, _EDIT, ["name", "torv doctor"], ["private"], ["closed"])
            metadata = await group.notice(wire, _METADATA)
            if not any(tag[:1] == ("private",) for tag in metadata.tags):
                raise Skipped("the relay knows no private groups: it left the flag out of kind 39000")
            said = group.event(group.owner, _CHAT, content="between us")
            await visit.keep(wire, said)
            own = await visit.found(wire, spoken)
            expect(own.ids == [said.id], sent="REQ by a member", expected="it", came=shown_all(own.events))
            for who, other in (("who proved no key", nobody), ("who proved another key", stranger)):
                for wanted in (spoken, Filter(ids=frozenset({said.id}))):
                    _, seen = await other.subscribe(wanted)
                    expect(
                        not seen.events,
                        sent=f"REQ for {shown(said)} in a private group by somebody {who}",
                        expected="nothing, or CLOSED",
                        came="it was shown",
                    )
        finally:
            await group.delete(wire)


PROBES = (
    Probe(29, "a group is made, joined by whom its admin adds, and deleted", groups_are_kept),
    Probe(29, "what is said in a private group stays there", private_groups_are_private),
)
