"""Reading what an edit of a group's metadata (kind 9002) asks for. An edit replaces all of it."""

from collections.abc import Iterable
from dataclasses import dataclass

from relay.nostr.kinds import MAX_KIND
from relay.nostr.reasons import Prefix, Refusal, invalid
from relay.nostr.tags import Tag, Tags

MAX_TAGS = 100
MAX_CHARS = 16_384
MAX_DEPTH = 32
MAX_CHILDREN = 100

FLAGS = frozenset({"private", "restricted", "hidden", "closed"})
_TEXTS = frozenset({"name", "picture", "banner", "about"})
_ENVELOPE = frozenset({"h", "d", "e", "p", "-", "previous", "expiration", "nonce", "client", "alt"})
"""Tags of the event that asks, not of the group."""
_DEFAULTS = frozenset({"public", "open", "unrestricted", "visible"})
"""What older clients say where a flag is not set."""


@dataclass(frozen=True, slots=True)
class Edit:
    """A group's metadata as an admin wants it."""

    tags: Tags
    """Those of kind 39000, but for `d`, `parent` and `child`. What this relay does not know is passed on."""
    parent: str | None
    children: tuple[str, ...]


def parse(tags: Tags) -> Edit | Refusal:
    """Read the tags of a kind 9002."""
    parents = [tag[1:2] for tag in tags if tag[:1] == ("parent",)]
    children = [tag[1:2] for tag in tags if tag[:1] == ("child",)]
    # "A kind:9002 MAY carry at most one parent tag."
    if len(parents) > 1 or () in parents or ("",) in parents:
        return invalid("at most one parent tag names the group above")
    if () in children:
        return invalid("a child tag names a group below")
    kept: dict[Tag, None] = {}
    for tag in tags:
        if not tag or tag[0] in _ENVELOPE | _DEFAULTS | {"parent", "child"}:
            continue
        if tag[0] == "livekit":
            return Refusal(Prefix.UNSUPPORTED, "this relay has no live audio and video")
        if tag[0] == "supported_kinds" and not _are_kinds(tag[1:]):
            return invalid("supported_kinds are numbers from 0 to 65535")
        if tag[0] in _TEXTS | {"supported_kinds"} and any(one[0] == tag[0] for one in kept):
            return invalid(f"a group has one {tag[0]}")
        kept[(tag[0],) if tag[0] in FLAGS else tag] = None
    found = tuple(kept)
    if len(found) > MAX_TAGS or sum(len(item) for tag in found for item in tag) > MAX_CHARS:
        return invalid(f"a group's metadata is at most {MAX_TAGS} tags of {MAX_CHARS} characters together")
    return Edit(found, parents[0][0] if parents else None, tuple(child for (child,) in children))


def _are_kinds(texts: Iterable[str]) -> bool:
    return all(
        text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= MAX_KIND for text in texts
    )
