"""The commands of the table: calls of NIP-86, joining and leaving (NIP-43), and what jobs have to do."""

from dataclasses import dataclass
from typing import Any

import orjson

from relay.features.management import book as records
from relay.features.management.book import Book, Unfit
from relay.features.management.callers import Staff
from relay.features.management.invites import read_invite
from relay.features.management.methods import (
    CHANGES,
    SUPPORTED_METHODS,
    Call,
    add_member,
    methods_for,
    remove_member,
)
from relay.features.management.notices import listed
from relay.nostr.event import EventId
from relay.nostr.keys import SecretKey
from relay.nostr.reasons import Prefix, Refusal
from relay.store.api import Records, Ruling
from relay.store.records import Draft

TIDIED_AT_ONCE = 500

WELCOME = "info: welcome!"
ALREADY = "duplicate: you are already a member of this relay."
GOODBYE = "info: you are not a member of this relay any more."
NEVER = "duplicate: you are not a member of this relay."


def call(method: str, params: list[Any], caller: str, authorization: str) -> bytes:
    """Return the command for a call; the answer is `{}`, or `{"error": ...}`."""
    return orjson.dumps(
        {"do": "call", "method": method, "params": params, "caller": caller, "id": authorization}
    )


def join(key: str, claim: str) -> bytes:
    """Return the command for a request to join; the answer is the reason of an OK."""
    return orjson.dumps({"do": "join", "key": key, "claim": claim})


def leave(key: str) -> bytes:
    """Return the command for a request to leave; the answer is the reason of an OK."""
    return orjson.dumps({"do": "leave", "key": key})


def purge(key: str, ids: list[EventId]) -> bytes:
    """Return the command that removes events of a banned key; none: there are no more."""
    return orjson.dumps({"do": "purge", "key": key, "ids": ids})


def publish() -> bytes:
    """Return the command that makes the list of members anew."""
    return orjson.dumps({"do": "publish"})


def tidy() -> bytes:
    """Return the command that forgets which invites were used, of those that have ended."""
    return orjson.dumps({"do": "tidy"})


@dataclass(frozen=True, slots=True)
class Commands:
    """Carries them out, inside the write transaction."""

    staff: Staff
    signer: SecretKey
    """The relay's own key."""
    has_members: bool
    max_members: int

    def carry_out(self, payload: bytes, kept: Records, now: int) -> Ruling | Refusal:
        """See `Table.command`."""
        told = orjson.loads(payload)
        try:
            match told["do"]:
                case "call":
                    return self._call(told, kept, now)
                case "join":
                    return self._join(told["key"], told["claim"], Book(kept), now)
                case "leave":
                    return self._leave(told["key"], Book(kept), now)
                case "purge":
                    return _purge(told["key"], told["ids"], Book(kept))
                case "publish":
                    return Ruling(also=listed(Book(kept), self.signer, now, at_once=True))
                case "tidy":
                    return _tidy(Book(kept), now)
        except Unfit as error:
            return error.refusal
        raise ValueError(f"no such command: {told['do']}")

    def _call(self, told: dict[str, Any], kept: Records, now: int) -> Ruling:
        # The authorisation is used up whatever becomes of the call.
        draft = Draft(kept)
        book = Book(draft)
        try:
            Book(kept).use(EventId(told["id"]), now)
            caller, method = told["caller"], told["method"]
            roles = () if book.has(records.BANNED, caller) else book.roles_of(caller) or ()
            allowed = methods_for(self.staff.standing(caller, roles), has_members=self.has_members)
            if method not in allowed and not (allowed and method == SUPPORTED_METHODS):
                raise Unfit("you may not do this", Prefix.RESTRICTED)
            change = CHANGES.get(method)
            if change is None:
                return Ruling(answer=b"{}")  # a list: who asked reads it
            ruling = change(
                Call(book, told["params"], caller, self.staff, self.signer, self.max_members, now)
            )
        except Unfit as error:
            return Ruling(answer=orjson.dumps({"error": str(error)}))
        draft.apply()
        return ruling._replace(answer=b"{}")

    def _join(self, key: str, claim: str, book: Book, now: int) -> Ruling:
        if book.has(records.BANNED, key):
            raise Unfit("this key is banned here.", Prefix.RESTRICTED)
        if book.roles_of(key) is not None:
            return Ruling(answer=ALREADY.encode())
        invite = read_invite(claim, self.signer)
        # Whoever may invite no more takes back the invites that are open.
        if (
            invite is None
            or book.has(records.BANNED, invite.by)
            or not self.staff.may_invite(invite.by, book.roles_of)
            or invite.made_at <= book.vanished(invite.by)
        ):
            raise Unfit("that is an invalid invite code.", Prefix.RESTRICTED)
        if invite.ends_at < now:
            raise Unfit("that invite code is expired.", Prefix.RESTRICTED)
        book.claim(invite.number.hex(), uses=invite.uses, ends_at=invite.ends_at)
        ruling = add_member(book, key, self.signer, now, reason="", most=self.max_members)
        return ruling._replace(answer=WELCOME.encode())

    def _leave(self, key: str, book: Book, now: int) -> Ruling:
        also = remove_member(book, key, self.signer, now)
        return Ruling(also=also, answer=(GOODBYE if also else NEVER).encode())


def _purge(key: str, ids: list[EventId], book: Book) -> Ruling:
    if not book.has(records.PURGE, key):
        return Ruling()  # unbanned meanwhile
    if not ids:
        book.records.delete(records.PURGE + key)
    return Ruling(removals=tuple(ids))


def _tidy(book: Book, now: int) -> Ruling:
    after = ""
    done = 0
    while done < TIDIED_AT_ONCE and (page := book.records.within(records.CLAIMED, after=after)):
        after = page[-1][0]
        for key, value in page:
            if orjson.loads(value)["ends_at"] < now and done < TIDIED_AT_ONCE:
                book.records.delete(key)
                done += 1
    return Ruling()
