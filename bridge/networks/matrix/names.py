"""How Matrix's HTML names people, rooms and events: `https://matrix.to/#/…` (Matrix spec, appendix 4.7)."""

from urllib.parse import quote, unquote

from bridge.html import Names
from bridge.reference import Ref
from bridge.text import Mention, Pointer

_MATRIX_TO = "https://matrix.to/#/"


def _to_node(url: str, shown: str) -> Mention | Pointer | None:
    id_ = _id(url)
    if id_ is None:
        return None
    ref = Ref("matrix", id_)
    if id_.startswith("@"):
        return Mention(ref, shown.removeprefix("@") or id_)
    return Pointer(ref, shown or id_)


def _id(url: str) -> str | None:
    """Return what a link names: the event where it names one, else the room or the person."""
    if not url.startswith(_MATRIX_TO):
        return None
    path = url.removeprefix(_MATRIX_TO).partition("?")[0]
    match [unquote(part) for part in path.split("/")]:
        case [id_] if id_[:1] in ("@", "#", "!"):
            return id_
        case [room, event] if room[:1] in ("#", "!") and event[:1] == "$":
            return event
    return None


def names(room: str | None = None) -> Names:
    """Return how people and posts are named; events can be where the room is known that they are in."""

    def to_url(ref: Ref) -> str | None:
        if ref.network != "matrix":
            return None
        if not ref.id.startswith("$"):
            return f"{_MATRIX_TO}{quote(ref.id, safe='@!#:')}"
        return f"{_MATRIX_TO}{quote(room, safe='!#:')}/{quote(ref.id, safe='$:')}" if room else None

    return Names(_to_node, to_url, emoji_schemes=("mxc",))
