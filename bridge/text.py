"""Text between networks: the body as a tree, and names that cannot pretend to be somebody else's."""

import re
import unicodedata
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Text:
    """A run of characters without formatting; line breaks are U+000A."""

    text: str


Inline = Text
RichText = tuple[Inline, ...]

MAX_NAME_CHARS = 100

# Bidi controls turn text around, zero-width characters hide in it: both are used to impersonate.
_INVISIBLE = re.compile(r"[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\u061c\u180e]")
# Controls, lone surrogates (which UTF-8 cannot hold), line and paragraph separators.
_UNPRINTABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})


def rich(text: str) -> RichText:
    """Return plain text as a body. A lone surrogate, which UTF-8 cannot hold, becomes `?`."""
    return (Text(text.encode(errors="replace").decode()),) if text else ()


def plain(body: RichText) -> str:
    """Return the body without formatting."""
    return "".join(inline.text for inline in body)


def shorten(body: RichText, max_bytes: int) -> RichText:
    """Cut the body to at most `max_bytes` of UTF-8, the last character an ellipsis if it was longer."""
    text = plain(body)
    encoded = text.encode()
    if len(encoded) <= max_bytes:
        return body
    ellipsis = "…"
    # "ignore" drops the character that the cut went through.
    return rich(encoded[: max_bytes - len(ellipsis.encode())].decode(errors="ignore") + ellipsis)


def clean_name(name: str | None) -> str | None:
    """Return a name without control, direction and invisible characters; None when nothing is left."""
    if name is None:
        return None
    visible = _INVISIBLE.sub("", unicodedata.normalize("NFC", name))
    printable = "".join(" " if unicodedata.category(c) in _UNPRINTABLE else c for c in visible)
    return " ".join(printable.split())[:MAX_NAME_CHARS] or None
