"""Between Matrix events and the neutral vocabulary. Pure.

Reads the raw JSON of the client-server API: what somebody else's client left out or got wrong must
neither raise here nor be filled in by a library's defaults.
"""

import json
from collections.abc import Mapping
from hashlib import sha256

from bridge.commands import PREFIX
from bridge.html import Unreadable as UnreadableHtml
from bridge.html import read, write
from bridge.identities import ghost_name
from bridge.model import (
    Closing,
    Command,
    Delete,
    Echo,
    Invitation,
    Op,
    Place,
    Post,
    Profile,
    ProfileChange,
    React,
    Ref,
    Room,
    RoomClosed,
)
from bridge.network import Unreadable
from bridge.networks.matrix.names import names
from bridge.networks.matrix.settings import MatrixConfig
from bridge.plan import Accept, Act, PutPicture, PutPost, PutProfile, PutReaction, Tell, Withdraw
from bridge.text import Hashtag, Link, Mention, RichText, Text, clean_name, linkified, normal, plain, walk
from relay.nostr.event import MAX_CREATED_AT

NETWORK = "matrix"

MAX_KEY_CHARS = 100
MAX_TEXT_BYTES = 55_000
"""Of a message's text in both forms, as JSON: an event has 65,536 at most, with what is around it."""

MARKER = "dev.torv.source"
"""The key of a message's content that names what it is a copy of: by it our own echo is known."""

_HTML = "org.matrix.custom.html"
_STATE_DEFAULT_LEVEL = 50
_REDACT_DEFAULT_LEVEL = 50
_CREATORS_RULE_SINCE_VERSION = 12

Json = Mapping[str, object]


def to_op(raw: bytes, config: MatrixConfig) -> Op | None:
    """Read an event as the homeserver pushed it; None when nothing follows. Raises Unreadable."""
    try:
        event = json.loads(raw)
    except ValueError as error:
        raise Unreadable(f"not JSON: {error}") from None
    match event:
        case {
            "type": str(type_),
            "room_id": str(room_id),
            "sender": str(sender),
            "event_id": str(id_),
            "origin_server_ts": int(at_ms),
            "content": dict(content),
        } if 0 <= at_ms // 1000 <= MAX_CREATED_AT:
            pass
        case _:
            raise Unreadable("not an event with type, room, sender, id, time and content")
    ref, room, by = Ref(NETWORK, id_), Ref(NETWORK, room_id), Ref(NETWORK, sender)
    state_key = event.get("state_key")
    match type_:
        case "m.room.message" if state_key is None:
            if config.is_ours(sender):
                return _echo(ref, room, content)
            return _message(ref, room, by, at_ms, content)
        case "m.reaction" if state_key is None:
            if config.is_ours(sender):
                return _echo(ref, room, content)
            return _reaction(ref, room, by, at_ms, content)
        case "m.room.redaction" if not config.is_ours(sender):
            # Room versions from 11 on keep it in the content.
            redacted = event.get("redacts", content.get("redacts"))
            if type(redacted) is str:
                return Delete((Ref(NETWORK, redacted),), by, room, at_ms)
        case "m.room.member":
            return _member(ref, room, by, state_key, at_ms, content, config)
        case "m.room.history_visibility" if state_key == "":
            if content.get("history_visibility") != "world_readable":
                return RoomClosed(ref, room, Closing.PRIVATE)
        case "m.room.encryption" if state_key == "":
            return RoomClosed(ref, room, Closing.ENCRYPTED)
    return None


def _echo(ref: Ref, room: Ref, content: Json) -> Echo | None:
    match content.get(MARKER):
        case {"network": str(network), "id": str(id_)}:
            return Echo(Ref(network, id_), ref, room)
    return None


def _message(ref: Ref, room: Ref, by: Ref, at_ms: int, content: Json) -> Op | None:
    relation = content.get("m.relates_to")
    relation = relation if isinstance(relation, dict) else {}
    body = content.get("body")
    # An edit repeats the whole message: without edits it would appear twice.
    if content.get("msgtype") != "m.text" or type(body) is not str or relation.get("rel_type") == "m.replace":
        return None
    if "m.in_reply_to" in relation:
        body = _without_quote(body)
    words = body.split(maxsplit=1)
    if words and words[0] == PREFIX:
        return Command(ref, room, by, words[1] if len(words) > 1 else "", at_ms)
    thread = relation.get("event_id") if relation.get("rel_type") == "m.thread" else None
    answered = relation.get("m.in_reply_to")
    reply_to = answered.get("event_id") if isinstance(answered, dict) else None
    if type(thread) is str and (type(reply_to) is not str or relation.get("is_falling_back") is True):
        # Within a thread old clients are told to show a reply to what came last; it is none.
        reply_to = thread
    return Post(
        ref,
        by,
        room,
        at_ms,
        _body(body, content),
        reply_to=Ref(NETWORK, reply_to) if type(reply_to) is str else None,
        thread=Ref(NETWORK, thread) if type(thread) is str else None,
    )


def _reaction(ref: Ref, room: Ref, by: Ref, at_ms: int, content: Json) -> React | None:
    match content.get("m.relates_to"):
        case {"rel_type": "m.annotation", "event_id": str(target), "key": str(key)} if key.strip():
            shown = key.strip().encode(errors="replace").decode()[:MAX_KEY_CHARS]
            return React(ref, by, room, at_ms, Ref(NETWORK, target), shown)
    return None


def _body(text: str, content: Json) -> RichText:
    """Read a message's text: its HTML where it has one that can be read."""
    formatted = content.get("formatted_body")
    if content.get("format") == _HTML and type(formatted) is str:
        try:
            return read(formatted, names())
        except UnreadableHtml:
            # Its sender says the same in plain text.
            pass
    return normal(linkified(text.encode(errors="replace").decode()))


def _text_content(body: RichText, room: str) -> dict[str, object]:
    """Return the fields of a message that hold its text, and whom it calls."""
    content: dict[str, object] = {"body": plain(body)}
    if not all(isinstance(node, Text | Hashtag) or _is_bare(node) for node in body):
        formatted = {"format": _HTML, "formatted_body": write(body, names(room))}
        # Too long an event would be refused: the text alone is better than none.
        if len(json.dumps(content | formatted, ensure_ascii=False).encode()) <= MAX_TEXT_BYTES:
            content |= formatted
    called = [node.who.id for node in walk(body) if isinstance(node, Mention) and node.who.network == NETWORK]
    # Without it, a name in the text would ring somebody's bell (MSC3952).
    return content | {"m.mentions": {"user_ids": list(dict.fromkeys(called))} if called else {}}


def _is_bare(node: object) -> bool:
    return isinstance(node, Link) and node.children == (Text(node.url),)


def _without_quote(body: str) -> str:
    """Drop the quotation that older clients put before a reply."""
    lines = body.split("\n")
    while lines and lines[0].startswith(">"):
        lines.pop(0)
    return "\n".join(lines)


def _member(
    ref: Ref, room: Ref, by: Ref, state_key: object, at_ms: int, content: Json, config: MatrixConfig
) -> Op | None:
    membership = content.get("membership")
    if state_key == config.bot_id:
        match membership:
            case "invite":
                return Invitation(ref, room, by)
            case "leave" | "ban":
                return RoomClosed(ref, room, Closing.LEFT)
        return None
    if membership == "join" and state_key == by.id and not config.is_ours(by.id):
        return ProfileChange(by, room, to_profile(content), at_ms)
    return None


def to_profile(content: Json) -> Profile:
    """Read a membership's or a profile's fields. A picture on Matrix cannot be loaded elsewhere."""
    name = content.get("displayname")
    return Profile(clean_name(name if type(name) is str else None), None)


def to_room(
    create: Json, power_levels: Json | None, visibility: Json | None, encryption: Json | None, user_id: str
) -> Room:
    """Read a room's state for somebody in it; `create` is the whole event, the others are contents."""
    level = power_level(create, power_levels, user_id)
    levels = power_levels or {}
    return Room(
        world_readable=visibility is not None and visibility.get("history_visibility") == "world_readable",
        encrypted=encryption is not None,
        may_administer=level >= _level(levels.get("state_default"), _STATE_DEFAULT_LEVEL),
        may_redact=level >= _level(levels.get("redact"), _REDACT_DEFAULT_LEVEL),
    )


def power_level(create: Json, power_levels: Json | None, user_id: str) -> float:
    """Return somebody's power in a room; creators have no limit from room version 12 on."""
    content = create.get("content")
    content = content if isinstance(content, dict) else {}
    creator = create.get("sender")
    version = str(content.get("room_version", "1"))
    if version.isdigit() and int(version) >= _CREATORS_RULE_SINCE_VERSION:
        more = content.get("additional_creators")
        if user_id == creator or (isinstance(more, list) and user_id in more):
            return float("inf")
    if power_levels is None:
        return 100 if user_id == creator else 0
    users = power_levels.get("users")
    own = users.get(user_id) if isinstance(users, dict) else None
    return _level(own, _level(power_levels.get("users_default"), 0))


def _level(value: object, default: int) -> int:
    # Old room versions allow levels as text.
    if isinstance(value, str) and value.strip().lstrip("-").isdigit():
        return int(value)
    return value if type(value) is int else default


def _ids(place: Place) -> dict[str, object]:
    """Write down how to find a post's id when this is sent: it may not have one yet."""
    return {
        "id": place.id,
        "of": [place.origin.network, place.origin.id],
        "thread": _ids(place.thread) if place.thread else None,
    }


def _id_now(ids: object, known: Mapping[Ref, str]) -> str | None:
    match ids:
        case {"id": str(id_)}:
            return id_
        case {"of": [str(network), str(id_)]}:
            return known.get(Ref(network, id_))
    return None


def answer_relation(ids: Json, known: Mapping[Ref, str]) -> dict[str, object]:
    """Return the `m.relates_to` of an answer; empty if what it answers could never be sent."""
    answered, thread = _id_now(ids, known), _id_now(ids.get("thread"), known)
    relation: dict[str, object] = {"m.in_reply_to": {"event_id": answered}} if answered else {}
    if thread:
        relation |= {"rel_type": "m.thread", "event_id": thread, "is_falling_back": answered is None}
    return {"m.relates_to": relation} if relation else {}


def reaction_relation(ids: Json, key: object, known: Mapping[Ref, str]) -> dict[str, object] | None:
    """Return the `m.relates_to` of a reaction; None if its target could never be sent."""
    target = _id_now(ids, known)
    relation = {"rel_type": "m.annotation", "event_id": target, "key": key}
    return {"m.relates_to": relation} if target else None


def transaction_id(key: str) -> str:
    """Return the transaction id of a delivery: the same whenever it is tried again."""
    return f"torv.{sha256(key.encode(errors='surrogatepass')).hexdigest()[:40]}"


def to_request(act: Act, config: MatrixConfig) -> dict[str, object]:
    """Put an act in the words of `network.deliver`: what to do, as whom, with what."""
    match act:
        case PutPost(post, author, room, reply_to):
            assert room is not None
            content = {
                "msgtype": "m.text",
                **_text_content(post.body, room.id),
                MARKER: {"network": post.ref.network, "id": post.ref.id},
            }
            return {
                "do": "send",
                "as": config.ghost_id(author.person),
                "room": room.id,
                "content": content,
                "ts": post.at_ms,
                **({"answers": _ids(reply_to)} if reply_to else {}),
            }
        case PutReaction(reaction, author, room, target):
            assert room is not None
            return {
                "do": "react",
                "as": config.ghost_id(author.person),
                "room": room.id,
                "content": {MARKER: {"network": reaction.ref.network, "id": reaction.ref.id}},
                "ts": reaction.at_ms,
                "to": _ids(target),
                "key": reaction.key,
            }
        case PutProfile(identity):
            return {"do": "name", "as": config.ghost_id(identity.person), "name": ghost_name(identity)}
        case PutPicture(person, url):
            return {"do": "picture", "as": config.ghost_id(person), "url": url}
        case Withdraw(author, copies):
            (copy,) = copies
            return {"do": "redact", "as": config.ghost_id(author.person), "room": copy.target}
        case Tell(room, text):
            # A notice: other bots must not answer it.
            content = {"msgtype": "m.notice", "body": text, "m.mentions": {}}
            return {"do": "send", "as": config.bot_id, "room": room.id, "content": content}
        case Accept(room):
            return {"do": "join", "as": config.bot_id, "room": room.id}
