"""Between Nostr events and the neutral vocabulary (NIP-01, 09, 24, 48). Pure."""

import orjson

from bridge.identities import ghost_key, ghost_name
from bridge.model import Delete, Op, Place, Post, Profile, ProfileChange, React, Ref, Sort
from bridge.networks.nostr.text import to_body, to_content
from bridge.plan import PutPost, PutProfile, PutReaction, Withdraw
from bridge.text import clean_name
from relay.nostr import kinds
from relay.nostr.event import Event, sign
from relay.nostr.tags import HEX_64, Tag, values

NETWORK = "nostr"

PROXY = "proxy"
"""NIP-48: the tag that names what a bridged event is a copy of."""

MAX_KEY_CHARS = 32
"""A reaction is a mark, not a text."""

# NIP-25: a plus is a like, a minus a dislike, and nothing is a plus.
_SHOWN = {"+": "👍", "": "👍", "-": "👎"}
_WRITTEN = {"👍": "+", "👍\ufe0f": "+", "👎": "-", "👎\ufe0f": "-"}
_KINDS = {Sort.POST: kinds.NOTE, Sort.REACTION: kinds.REACTION}

# Only the first bytes of a profile can be of use; it is a stranger's.
_MAX_PROFILE_CHARS = 65_536


def to_op(event: Event) -> Op | None:
    """Read an event whose signature was checked; None when nothing follows from it."""
    author = Ref(NETWORK, event.pubkey)
    at_ms = event.created_at * 1000
    match event.kind:
        case kinds.NOTE:
            body = to_body(event.content, event.tags)
            thread, reply_to = _conversation(event)
            return Post(
                Ref(NETWORK, event.id), author, None, at_ms, body, _is_bridged(event), reply_to, thread
            )
        case kinds.REACTION:
            return _reaction(event, author)
        case kinds.PROFILE:
            return ProfileChange(author, None, to_profile(event), at_ms)
        case kinds.DELETION:
            targets = tuple(Ref(NETWORK, id_) for id_ in values(event.tags, "e") if HEX_64(id_))
            return Delete(targets, author, None, at_ms) if targets else None
    return None


def _is_bridged(event: Event) -> bool:
    return any(tag and tag[0] == PROXY for tag in event.tags)


def _conversation(event: Event) -> tuple[Ref | None, Ref | None]:
    """Return what began the note's conversation and what it answers (NIP-10): both, or neither."""
    tags = [tag for tag in event.tags if len(tag) > 1 and tag[0] == "e" and HEX_64(tag[1])]
    marked = {tag[3]: tag[1] for tag in reversed(tags) if len(tag) > 3 and tag[3] in ("root", "reply")}
    if not marked:
        # Before there were markers the first was the root and the last the note that is answered.
        unmarked = [tag[1] for tag in tags if len(tag) < 4 or tag[3] == ""]
        if not unmarked:
            return None, None
        marked = {"root": unmarked[0], "reply": unmarked[-1]}
    root = marked.get("root") or marked["reply"]
    return Ref(NETWORK, root), Ref(NETWORK, marked.get("reply") or root)


def _reaction(event: Event, author: Ref) -> React | None:
    # NIP-25: the note that is reacted to is the last `e` tag.
    targets = [id_ for id_ in values(event.tags, "e") if HEX_64(id_)]
    if not targets:
        return None
    key = _SHOWN.get(event.content, event.content)
    emoji = {tag[1]: tag[2] for tag in event.tags if len(tag) > 2 and tag[0] == "emoji"}
    url = emoji.get(key.strip(":")) if key.startswith(":") and key.endswith(":") else None
    if len(key) > MAX_KEY_CHARS and url is None:
        return None
    at_ms, target = event.created_at * 1000, Ref(NETWORK, targets[-1])
    return React(Ref(NETWORK, event.id), author, None, at_ms, target, key, url, _is_bridged(event))


def to_profile(event: Event) -> Profile:
    """Read a kind 0 event. What its author got wrong counts as absent."""
    try:
        fields = orjson.loads(event.content[:_MAX_PROFILE_CHARS])
    except orjson.JSONDecodeError:
        fields = None
    if type(fields) is not dict:
        return Profile(None, None)
    # NIP-24: `display_name` is the richer of the two names, and often absent or empty.
    names = (clean_name(value) for key in ("display_name", "name") if type(value := fields.get(key)) is str)
    name = next((name for name in names if name is not None), None)
    picture = fields.get("picture")
    return Profile(name, picture if type(picture) is str and picture else None)


def to_note(seed: bytes, act: PutPost) -> Event:
    """Return the kind 1 event of a post: the same bytes for the same post, always."""
    post = act.post
    content, tags = to_content(post.body)
    answered = _answer_tags(act.reply_to) if act.reply_to else ()
    return sign(
        ghost_key(seed, act.author),
        created_at=post.at_ms // 1000,
        kind=kinds.NOTE,
        tags=(*dict.fromkeys((*answered, *tags)), _proxy(post.ref)),
        content=content,
    )


def _answer_tags(place: Place) -> tuple[Tag, ...]:
    """Return the tags of an answer (NIP-10): to the note that began it all, or to one within."""
    assert place.id is not None, "what a note is called follows from its author and text"
    tags: list[Tag] = []
    if place.thread is not None and place.thread.id is not None:
        tags.append(("e", place.thread.id, "", "root"))
    tags.append(("e", place.id, "", "reply" if tags else "root"))
    people = (place.author, place.thread.author if place.thread else None)
    return (*tags, *(("p", who.id) for who in dict.fromkeys(people) if who is not None))


def to_reaction(seed: bytes, act: PutReaction) -> Event:
    """Return the kind 7 event of a reaction (NIP-25)."""
    reaction, target = act.reaction, act.target
    assert target.id is not None, "what a note is called follows from its author and text"
    tags: list[Tag] = [("e", target.id)]
    if target.author is not None:
        tags.append(("p", target.author.id))
    tags.append(("k", str(kinds.NOTE)))
    return sign(
        ghost_key(seed, act.author),
        created_at=reaction.at_ms // 1000,
        kind=kinds.REACTION,
        tags=(*tags, _proxy(reaction.ref)),
        content=_WRITTEN.get(reaction.key, reaction.key),
    )


def to_profile_event(seed: bytes, act: PutProfile) -> Event:
    """Return the kind 0 event that shows a ghost's name, and where the person is to be found."""
    identity = act.identity
    name = ghost_name(identity)
    about = f"Mirrored from {identity.person.id}; what is said to this account is not read there."
    fields = {"name": name, "display_name": name, "about": about}
    if identity.profile.picture is not None:
        fields["picture"] = identity.profile.picture
    return sign(
        ghost_key(seed, identity),
        created_at=identity.profile_at,
        kind=kinds.PROFILE,
        tags=(_proxy(identity.person),),
        content=orjson.dumps(fields).decode(),
    )


def to_deletion(seed: bytes, act: Withdraw) -> Event:
    """Return the kind 5 event by which a ghost takes its notes back (NIP-09)."""
    secret = ghost_key(seed, act.author)
    tags: list[Tag] = [("e", copy.native_id) for copy in act.copies if copy.native_id is not None]
    sorts = {copy.sort for copy in act.copies if copy.native_id is not None}
    tags += [("k", str(kind)) for sort, kind in _KINDS.items() if sort in sorts]
    if act.profile_too:
        tags += [("a", f"{kinds.PROFILE}:{secret.public}:"), ("k", str(kinds.PROFILE))]
    return sign(secret, created_at=act.at_ms // 1000, kind=kinds.DELETION, tags=tags)


def _proxy(source: Ref) -> Tag:
    return (PROXY, source.id, source.network)
