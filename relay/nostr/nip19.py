"""NIP-19: keys, ids and pointers as bech32 text, the form that people copy and paste.

For settings, commands and text written by people only: messages and stored events speak hex.
Reading is strict. Errors never repeat their input, which may be a secret key.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import assert_never

from bech32 import bech32_decode, bech32_encode, convertbits

from relay.nostr.event import EventId, PubKey
from relay.nostr.keys import SecretKey
from relay.nostr.kinds import MAX_KIND
from relay.nostr.tags import HEX_64, Address, parse_address

MAX_CHARS = 5000
"""NIP-19: bech32 strings should be limited to 5000 characters (BIP-173's 90 do not apply)."""

# NIP-19's TLV types.
_SPECIAL, _RELAY, _AUTHOR, _KIND = range(4)

_LEFT_OUT = {_SPECIAL: "what it points to", _AUTHOR: "an author", _KIND: "a kind"}


class InvalidEntity(ValueError):
    """The text is not a NIP-19 entity, or the entity cannot be written as one."""


@dataclass(frozen=True, slots=True)
class Npub:
    """A public key."""

    pubkey: PubKey


@dataclass(frozen=True, slots=True)
class Nsec:
    """A secret key."""

    secret: SecretKey


@dataclass(frozen=True, slots=True)
class Note:
    """An event id."""

    id: EventId


@dataclass(frozen=True, slots=True)
class Nprofile:
    """A public key, and relays where its profile may be found."""

    pubkey: PubKey
    relays: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Nevent:
    """An event id, and what is known of the event."""

    id: EventId
    relays: tuple[str, ...] = ()
    author: PubKey | None = None
    kind: int | None = None


@dataclass(frozen=True, slots=True)
class Naddr:
    """The address of a replaceable or addressable event."""

    address: Address
    relays: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Nrelay:
    """A relay's URL. Deprecated: read, never written."""

    url: str


Writable = Npub | Nsec | Note | Nprofile | Nevent | Naddr
Entity = Writable | Nrelay


def decode(text: str) -> Entity:
    """Read a NIP-19 entity, all lower or all upper case. Raises InvalidEntity.

    TLVs of unknown types are ignored; of a TLV that may stand once, the first counts.
    """
    prefix, payload = _decode_bech32(text)
    match prefix:
        case "npub":
            return Npub(PubKey(_hex_32(payload, "a public key")))
        case "nsec":
            try:
                return Nsec(SecretKey(payload))
            except ValueError as error:
                raise InvalidEntity(str(error)) from None
        case "note":
            return Note(EventId(_hex_32(payload, "an event id")))
        case "nprofile" | "nevent" | "naddr" | "nrelay":
            return _decode_pointer(prefix, payload)
    raise InvalidEntity("expected text that starts with npub1, nsec1, note1, nprofile1, nevent1 or naddr1")


def encode(entity: Writable) -> str:
    """Write a NIP-19 entity in lower case.

    Raises InvalidEntity for what a TLV cannot hold: a relay or `d` of more than 255 bytes, a relay
    that is not ASCII.
    """
    match entity:
        case Npub(pubkey):
            return _encode_bech32("npub", bytes.fromhex(pubkey))
        case Nsec(secret):
            return _encode_bech32("nsec", secret.secret_bytes())
        case Note(id_):
            return _encode_bech32("note", bytes.fromhex(id_))
        case Nprofile(pubkey, relays):
            return _encode_pointer("nprofile", bytes.fromhex(pubkey), relays, None, None)
        case Nevent(id_, relays, author, kind):
            return _encode_pointer("nevent", bytes.fromhex(id_), relays, author, kind)
        case Naddr(address, relays):
            return _encode_pointer("naddr", address.d.encode(), relays, address.pubkey, address.kind)
        case _:
            assert_never(entity)


def public_key(text: str) -> PubKey:
    """Read a public key written as npub1… or as 64 hex digits. Raises ValueError."""
    if HEX_64(text):
        return PubKey(text)
    match _decode_as(text, "expected npub1… or 64 lowercase hex digits"):
        case Npub(pubkey):
            return pubkey
        case Nsec():
            raise InvalidEntity("this is a secret key (nsec1…); a public one is wanted (npub1…)")
    raise InvalidEntity("expected npub1… or 64 lowercase hex digits")


def secret_key(text: str) -> SecretKey:
    """Read a secret key written as nsec1… or as 64 hex digits. Raises ValueError."""
    if HEX_64(text):
        return SecretKey(bytes.fromhex(text))
    match _decode_as(text, "expected nsec1… or 64 lowercase hex digits"):
        case Nsec(secret):
            return secret
        case Npub():
            raise InvalidEntity("this is a public key (npub1…); a secret one is wanted (nsec1…)")
    raise InvalidEntity("expected nsec1… or 64 lowercase hex digits")


def _decode_as(text: str, expected: str) -> Entity:
    try:
        return decode(text)
    except InvalidEntity as error:
        raise InvalidEntity(f"{expected}: {error}") from None


def _decode_bech32(text: str) -> tuple[str, bytes]:
    if len(text) > MAX_CHARS:
        raise InvalidEntity(f"longer than {MAX_CHARS} characters")
    prefix, groups = bech32_decode(text)
    if prefix is None or groups is None:
        raise InvalidEntity("not bech32 text, or its checksum is wrong")
    payload = convertbits(groups, 5, 8, pad=False)
    if payload is None:
        raise InvalidEntity("the bech32 text does not hold whole bytes")
    return prefix, bytes(payload)


def _encode_bech32(prefix: str, payload: bytes) -> str:
    groups = convertbits(payload, 8, 5)
    assert groups is not None  # bytes always fit into 8 bits
    text = bech32_encode(prefix, groups)
    if len(text) > MAX_CHARS:
        raise InvalidEntity(f"longer than {MAX_CHARS} characters")
    return text


def _hex_32(value: bytes, what: str) -> str:
    if len(value) != 32:
        raise InvalidEntity(f"{what} has 32 bytes, not {len(value)}")
    return value.hex()


def _decode_pointer(prefix: str, payload: bytes) -> Entity:
    relays: list[str] = []
    once: dict[int, bytes] = {}
    for type_, value in _records(payload):
        if type_ == _RELAY:
            relays.append(_ascii(value))
        else:
            once.setdefault(type_, value)
    special = _wanted(once, _SPECIAL, prefix)
    match prefix:
        case "nprofile":
            return Nprofile(PubKey(_hex_32(special, "a public key")), tuple(relays))
        case "nevent":
            author = PubKey(_hex_32(once[_AUTHOR], "an author")) if _AUTHOR in once else None
            kind = _kind(once[_KIND]) if _KIND in once else None
            return Nevent(EventId(_hex_32(special, "an event id")), tuple(relays), author, kind)
        case "naddr":
            pubkey = _hex_32(_wanted(once, _AUTHOR, prefix), "an author")
            return Naddr(_address(_kind(_wanted(once, _KIND, prefix)), pubkey, special), tuple(relays))
        case _:
            return Nrelay(_ascii(special))


def _records(payload: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the (type, value) pairs of a TLV list."""
    at = 0
    while at < len(payload):
        header = payload[at : at + 2]
        end = at + 2 + header[-1]
        if len(header) < 2 or end > len(payload):
            raise InvalidEntity("the list of TLVs is cut short")
        yield header[0], payload[at + 2 : end]
        at = end


def _wanted(once: dict[int, bytes], type_: int, prefix: str) -> bytes:
    try:
        return once[type_]
    except KeyError:
        raise InvalidEntity(f"{prefix} without {_LEFT_OUT[type_]}") from None


def _ascii(value: bytes) -> str:
    try:
        return value.decode("ascii")
    except UnicodeDecodeError:
        raise InvalidEntity("a relay's URL must be ASCII") from None


def _kind(value: bytes) -> int:
    kind = int.from_bytes(value)
    if len(value) != 4 or kind > MAX_KIND:
        raise InvalidEntity(f"a kind is a 32-bit number up to {MAX_KIND}")
    return kind


def _address(kind: int, pubkey: str, identifier: bytes) -> Address:
    try:
        d = identifier.decode()
    except UnicodeDecodeError:
        raise InvalidEntity("the identifier must be UTF-8") from None
    # NIP-01 and NIP-19: a replaceable event's address has an empty identifier; the parser sees to it.
    address = parse_address(f"{kind}:{pubkey}:{d}")
    if address is None:
        raise InvalidEntity(f"events of kind {kind} have no address")
    return address


def _encode_pointer(
    prefix: str, special: bytes, relays: Iterable[str], author: str | None, kind: int | None
) -> str:
    payload = bytearray(_record(_SPECIAL, special))
    for relay in relays:
        if not relay.isascii():
            raise InvalidEntity("a relay's URL must be ASCII")
        payload += _record(_RELAY, relay.encode())
    if author is not None:
        payload += _record(_AUTHOR, bytes.fromhex(author))
    if kind is not None:
        payload += _record(_KIND, kind.to_bytes(4))
    return _encode_bech32(prefix, bytes(payload))


def _record(type_: int, value: bytes) -> bytes:
    if len(value) > 255:
        raise InvalidEntity("a relay's URL or an identifier has at most 255 bytes in NIP-19")
    return bytes((type_, len(value))) + value
