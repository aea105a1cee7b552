"""Postings: the keyed hashes under which an event is found, and writes prepared for the writer.

Pure Python. `prepare` runs where the event was verified, possibly in another process than the
writer: a Prepared is a plain tuple of what `marshal` knows, and everything the writer needs.
"""

from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b
from struct import pack, unpack

from relay.nostr.event import Event
from relay.nostr.kinds import Retention, retention
from relay.nostr.tags import LETTERS, Address
from relay.store.api import Removal, RemoveAddress, RemoveEvent, RemoveOwned, Write

SEQ_BITS = 31
SEQ_MASK = (1 << SEQ_BITS) - 1
MAX_TS = 2**63 - 1
"""The ts (created_at << 31 | seq) of the last event there can be."""

PreparedRemoval = tuple[int, bytes, bytes | None, int]
"""(hash of the target, the target itself, by, until).

RemoveEvent: the id as 64 hex digits, the remover's key as 64 hex digits, 0.
RemoveAddress: `str(address)` as UTF-8, None, the last second removed.
RemoveOwned: hash 0, an empty target, the owner's key as 64 hex digits, the last second removed.
"""

Prepared = tuple[
    bytes,
    int,
    int,
    int,
    int | None,
    int | None,
    bytes | None,
    tuple[PreparedRemoval, ...],
    bool,
    bytes,
    str,
]
"""(json, created_at, kind, id hash, address hash, expires_at, owners, removals, live, postings, tables).

`owners`: keys as hex joined by spaces, behind FINAL where no RemoveEvent counts; None for the author.
`postings`: distinct signed 64-bit little-endian hashes, the id's and the address's among them. The id and
the author are read out of the canonical json. `tables`: names joined by spaces.
"""

FINAL = b"final"

ID = slice(7, 71)
"""Where canonical JSON holds the id, 64 hex digits: `{"id":"` id `","pubkey":"` pubkey `"`…"""
AUTHOR = slice(83, 147)
"""Where canonical JSON holds the author, 64 hex digits."""


_CACHED = 16_384
"""Hashes of authors, and of tags, that are kept; 4 MB each at most."""
_CACHED_CHARS = 80
"""Longer tag values are hashed each time, so that the cache's memory is bounded."""


class Hashes:
    """The posting hashes of one database: signed 64-bit BLAKE2b under the database's secret key.

    Keyed, so that nobody outside can make two values collide (COUNT trusts the hashes).
    """

    def __init__(self, key: bytes) -> None:
        # A copy of it costs 0.2 µs less than a new one with a key.
        self._blank = blake2b(key=key, digest_size=8)
        # Authors and kinds repeat, and so do tags: of follow lists, of threads. A hash costs 0.6 µs.
        self.author = lru_cache(maxsize=_CACHED)(self._author)
        # Not an lru_cache: what that does to its list at every hit took 5 % of a worker's time, for a
        # follow list has hundreds of tags. This one forgets all when it is full.
        self._tags: dict[str, dict[str, int]] = {letter: {} for letter in LETTERS}
        self._room = _CACHED
        self.kind = lru_cache(maxsize=4_096)(self._kind)
        self._kind_of_author = lru_cache(maxsize=4_096)(self._mixed_kind)
        self.everything: int = self._hash(b"*")
        """Every event's."""

    def _hash(self, value: bytes) -> int:
        hashed = self._blank.copy()
        hashed.update(value)
        return int.from_bytes(hashed.digest(), "little", signed=True)

    def id(self, id_hex: str) -> int:
        """Return the hash of an event id."""
        return self._hash(b"i" + bytes.fromhex(id_hex))

    def _author(self, pubkey: str) -> int:
        return self._hash(b"a" + bytes.fromhex(pubkey))

    def _kind(self, kind: int) -> int:
        return self._hash(b"k%d" % kind)

    def _mixed_kind(self, kind: int) -> int:
        return self._hash(b"m%d" % kind)

    def author_kind(self, pubkey: str, kind: int) -> int:
        """Return the hash of an author's events of one kind."""
        # The exclusive or of two secret hashes is as good as a third one, and is not computed anew.
        return self.author(pubkey) ^ self._kind_of_author(kind)

    def pairs(self, authors: Iterable[int], kinds: Iterable[int]) -> list[int]:
        """Return the hashes of these authors' events of these kinds, given as hashes of theirs."""
        mixed = list(map(self._kind_of_author, kinds))
        return [author ^ kind for author in authors for kind in mixed]

    def tag(self, letter: str, value: str) -> int:
        """Return the hash of a tag as filters ask for it."""
        known = self._tags[letter].get(value)
        return self._new_tag(letter, value) if known is None else known

    def _new_tag(self, letter: str, value: str) -> int:
        hashed = self._hash(b"t" + letter.encode() + value.encode())
        if len(value) <= _CACHED_CHARS:
            if not self._room:
                self._room = _CACHED
                for known in self._tags.values():
                    known.clear()
            self._room -= 1
            self._tags[letter][value] = hashed
        return hashed

    def address(self, address: Address) -> int:
        """Return the hash of an address, by which its holder and its tombstone are found.

        A replaceable event's is that of its author and kind: postings of replaced events linger, but
        an address has only its holder's, so that a profile is found at once however often it changed.
        """
        if retention(address.kind) is Retention.REPLACEABLE:
            return self.author_kind(address.pubkey, address.kind)
        return self._hash(b"d" + str(address).encode())

    def of(self, event: Event) -> set[int]:
        """Return the hashes under which filters find the event, but for its id's."""
        author, kind = self.author(event.pubkey), event.kind
        found = {author, author ^ self._kind_of_author(kind), self.kind(kind), self.everything}
        # As `indexed` has it, but without pairs that would be made for nothing else.
        tags = self._tags
        for tag in event.tags:
            if len(tag) > 1 and (letter := tag[0]) in LETTERS:
                found.add(tags[letter].get(tag[1]) or self._new_tag(letter, tag[1]))
        return found


def prepare(write: Write, hashes: Hashes) -> Prepared:
    """Return the write as the writer takes it. Its address must be the event's own, or none."""
    event = write.event
    id_ = hashes.id(event.id)
    found = hashes.of(event)
    found.add(id_)
    address = None
    if write.address is not None:
        address = hashes.address(write.address)
        found.add(address)
    return (
        write.json,
        event.created_at,
        event.kind,
        id_,
        address,
        write.expires_at,
        _owners(write),
        tuple([_prepare_removal(removal, hashes) for removal in write.removals]) if write.removals else (),
        write.live,
        pack(f"<{len(found)}q", *found),
        " ".join(write.tables),
    )


def _owners(write: Write) -> bytes | None:
    if write.is_final:
        owners = (write.event.pubkey,) if write.owners is None else write.owners
        return b" ".join([FINAL, *(owner.encode() for owner in owners)])
    return None if write.owners is None else " ".join(write.owners).encode()


def _prepare_removal(removal: Removal, hashes: Hashes) -> PreparedRemoval:
    match removal:
        case RemoveEvent(id_, by):
            return hashes.id(id_), id_.encode(), by.encode(), 0
        case RemoveAddress(address, until):
            return hashes.address(address), str(address).encode(), None, until
        case RemoveOwned(by, until):
            return 0, b"", by.encode(), until


def removes_owned(prepared: Prepared) -> bool:
    """Say whether a write removes all that somebody owns."""
    return any(not target for _, target, _, _ in prepared[7])


def unpack_hashes(postings: bytes) -> tuple[int, ...]:
    """Return the hashes that `prepare` packed."""
    return unpack(f"<{len(postings) // 8}q", postings)
