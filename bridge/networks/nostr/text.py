"""Bodies as the plain text of Nostr's notes and chats, and back (NIP-01, 21, 24, 27, 30). Pure.

Clients show such text as it is, but for web addresses, `nostr:` URIs, #words and custom emoji: only
those are more than text when it is read, and all other formatting is written as people type it.
"""

import re
from collections.abc import Iterator, Sequence

from bridge.reference import Ref
from bridge.text import (
    Emoji,
    Hashtag,
    Link,
    Mention,
    Node,
    Pointer,
    RichText,
    Text,
    degrade,
    linkified,
    normal,
    walk,
)
from relay.nostr import nip19
from relay.nostr.event import EventId, PubKey
from relay.nostr.tags import HEX_64, Tag

NETWORK = "nostr"

MAX_TAGS = 200
"""Of each sort that one text gives: far more than people write, far less than relays refuse."""

_ENTITY = re.compile(
    r"(?:nostr:|(?<![\w/:.@-])@?)((?:npub|nprofile|note|nevent|naddr)1[02-9ac-hj-np-z]{20,2000})"
)
_SHORTCODE = re.compile(r":(\w+):")
_SHORTCODE_ONLY = re.compile(r"\w+").fullmatch


def can_write(node: Node) -> bool:
    """Say whether Nostr's plain text can hold a node as what it is."""
    match node:
        case Link(url, children):
            return children == (Text(url),) and linkified(url) == [node]
        case Mention(who):
            return who.network == NETWORK and bool(HEX_64(who.id))
        case Pointer(to):
            return to.network == NETWORK and bool(HEX_64(to.id))
        case Hashtag(tag):
            return linkified(f"#{tag}") == [node]
        case Emoji(shortcode, url):
            return _SHORTCODE_ONLY(shortcode) is not None and url.startswith(("http://", "https://"))
    return False


def to_content(body: RichText) -> tuple[str, tuple[Tag, ...]]:
    """Return the text of a note, and the tags that belong to it: `p`, `q`, `t`, `emoji`, in this order.

    Equal bodies give equal tags. A post that is pointed to is quoted (NIP-18).
    """
    shown = degrade(body, can_write)
    text = "".join(map(_written, shown))
    people = _once(("p", node.who.id) for node in walk(shown) if isinstance(node, Mention))
    quoted = _once(("q", node.to.id) for node in walk(shown) if isinstance(node, Pointer))
    topics = _once(("t", node.tag.lower()) for node in walk(shown) if isinstance(node, Hashtag))
    emoji: dict[str, Tag] = {}
    for node in walk(shown):
        if isinstance(node, Emoji):
            emoji.setdefault(node.shortcode, ("emoji", node.shortcode, node.url))
    return text, (*people, *quoted, *topics, *tuple(emoji.values())[:MAX_TAGS])


def _once(tags: Iterator[Tag]) -> tuple[Tag, ...]:
    return tuple(dict.fromkeys(tags))[:MAX_TAGS]


def _written(node: Node) -> str:
    match node:
        case Text(text):
            return text
        case Link(url):
            return url
        case Mention(who):
            return f"nostr:{nip19.encode(nip19.Npub(PubKey(who.id)))}"
        case Pointer(to):
            return f"nostr:{nip19.encode(nip19.Nevent(EventId(to.id)))}"
        case Hashtag(tag):
            return f"#{tag}"
        case Emoji(shortcode):
            return f":{shortcode}:"
    raise TypeError(f"{type(node).__name__} cannot be written")


def to_body(content: str, tags: Sequence[Tag]) -> RichText:
    """Read the text of a note. A person who is mentioned has no name here: it is their npub, shortened."""
    emoji = {tag[1]: tag[2] for tag in tags if len(tag) > 2 and tag[0] == "emoji" and _SHORTCODE_ONLY(tag[1])}
    nodes: list[Node] = []
    at = 0
    for found in _ENTITY.finditer(content):
        named = _named(found[1])
        if named is None:
            continue
        nodes += _text(content[at : found.start()], emoji)
        nodes.append(named)
        at = found.end()
    nodes += _text(content[at:], emoji)
    return normal(nodes)


def _named(text: str) -> Node | None:
    try:
        entity = nip19.decode(text)
    except nip19.InvalidEntity:
        return None
    match entity:
        case nip19.Npub(pubkey) | nip19.Nprofile(pubkey):
            return Mention(Ref(NETWORK, pubkey), short_name(pubkey))
        case nip19.Note(id_) | nip19.Nevent(id_):
            return Pointer(Ref(NETWORK, id_), f"nostr:{text}")
    return None


def short_name(pubkey: str) -> str:
    """Return what stands for somebody whose name is not known: the beginning of their npub."""
    return f"{nip19.encode(nip19.Npub(PubKey(pubkey)))[:12]}…"


def _text(text: str, emoji: dict[str, str]) -> list[Node]:
    nodes: list[Node] = []
    for node in linkified(text.replace("\x00", "")):
        nodes += _with_emoji(node.text, emoji) if emoji and isinstance(node, Text) else [node]
    return nodes


def _with_emoji(text: str, emoji: dict[str, str]) -> list[Node]:
    nodes: list[Node] = []
    at = 0
    for found in _SHORTCODE.finditer(text):
        if found.start() < at or found[1] not in emoji:
            continue
        nodes += [Text(text[at : found.start()]), Emoji(found[1], emoji[found[1]])]
        at = found.end()
    return [*nodes, Text(text[at:])]
