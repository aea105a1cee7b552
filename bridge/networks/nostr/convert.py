"""Between Nostr events and the neutral vocabulary (NIP-01, 09, 24, 48). Pure."""

import orjson

from bridge.identities import ghost_key, ghost_name
from bridge.model import Delete, Op, Post, Profile, ProfileChange, Ref
from bridge.networks.nostr.text import to_body, to_content
from bridge.plan import PutPost, PutProfile, Withdraw
from bridge.text import clean_name
from relay.nostr import kinds
from relay.nostr.event import Event, sign
from relay.nostr.tags import HEX_64, Tag, values

NETWORK = "nostr"

PROXY = "proxy"
"""NIP-48: the tag that names what a bridged event is a copy of."""

# Only the first bytes of a profile can be of use; it is a stranger's.
_MAX_PROFILE_CHARS = 65_536


def to_op(event: Event) -> Op | None:
    """Read an event whose signature was checked; None when nothing follows from it."""
    author = Ref(NETWORK, event.pubkey)
    at_ms = event.created_at * 1000
    match event.kind:
        case kinds.NOTE:
            bridged = any(tag and tag[0] == PROXY for tag in event.tags)
            return Post(
                Ref(NETWORK, event.id), author, None, at_ms, to_body(event.content, event.tags), bridged
            )
        case kinds.PROFILE:
            return ProfileChange(author, None, to_profile(event), at_ms)
        case kinds.DELETION:
            targets = tuple(Ref(NETWORK, id_) for id_ in values(event.tags, "e") if HEX_64(id_))
            return Delete(targets, author, None, at_ms) if targets else None
    return None


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
    return sign(
        ghost_key(seed, act.author),
        created_at=post.at_ms // 1000,
        kind=kinds.NOTE,
        tags=(*tags, _proxy(post.ref)),
        content=content,
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
    if tags:
        tags.append(("k", str(kinds.NOTE)))
    if act.profile_too:
        tags += [("a", f"{kinds.PROFILE}:{secret.public}:"), ("k", str(kinds.PROFILE))]
    return sign(secret, created_at=act.at_ms // 1000, kind=kinds.DELETION, tags=tags)


def _proxy(source: Ref) -> Tag:
    return (PROXY, source.id, source.network)
