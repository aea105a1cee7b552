"""Bodies as the HTML that Matrix and the Fediverse write, and back. Pure.

What is read is hostile: of the elements and attributes only those named here mean anything, all others
are the text inside of them. What is written holds nothing but what this file puts there.
"""

import html
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import assert_never
from urllib.parse import urlsplit

from selectolax.lexbor import LexborHTMLParser, LexborNode

from bridge.reference import Ref
from bridge.text import (
    MAX_DEPTH,
    Code,
    CodeBlock,
    Emoji,
    Hashtag,
    Heading,
    ItemList,
    Link,
    Mention,
    Node,
    Pointer,
    Quote,
    RichText,
    Rule,
    Spoiler,
    Style,
    Styled,
    Text,
    linkified,
    normal,
)

MAX_HTML_CHARS = 200_000
"""Longer documents are not read; Matrix events have 64 KiB."""
MAX_NODES = 20_000

_STYLES = {
    **dict.fromkeys(("strong", "b"), Style.STRONG),
    **dict.fromkeys(("em", "i"), Style.EMPHASIS),
    **dict.fromkeys(("del", "s", "strike"), Style.STRIKE),
    "u": Style.UNDERLINE,
}
_TAGS = {Style.STRONG: "strong", Style.EMPHASIS: "em", Style.STRIKE: "del", Style.UNDERLINE: "u"}
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
# What Matrix's reply fallback repeats, and what is no text.
_SILENT = frozenset(
    {"mx-reply", "script", "style", "template", "title", "head", "noscript", "iframe", "svg", "math"}
)
_PARAGRAPHS = frozenset({"p", "table", "details", "figure", "section", "article"})
_LINES = frozenset({"div", "tr", "summary", "dt", "dd", "figcaption", "header", "footer", "caption"})
_SPACES = re.compile(r"[ \t\n\r\f]+")
# Beside another space or a line break.
_FOLDED = re.compile(r"(?<=[ \n]) | (?=\n)")
_WEB = ("http", "https", "mailto")


class Unreadable(ValueError):
    """The HTML is too much to be read; the text says why."""


@dataclass(frozen=True, slots=True)
class Names:
    """How a network's HTML names people and posts."""

    to_node: Callable[[str, str], Mention | Pointer | None]
    """(URL, the link's text) → whom or what it names; None for an ordinary link."""
    to_url: Callable[[Ref], str | None]
    """The URL that names somebody or something; None where it cannot be named."""
    emoji_schemes: tuple[str, ...]
    """Schemes of the URLs of custom emoji that may be shown."""


def read(source: str, names: Names) -> RichText:
    """Read HTML. Raises Unreadable."""
    if len(source) > MAX_HTML_CHARS:
        raise Unreadable(f"longer than {MAX_HTML_CHARS} characters")
    # Lone surrogates cannot be encoded for the parser.
    tree = LexborHTMLParser(source.encode(errors="replace").decode())
    reader = _Reader(names)
    if tree.body is not None:
        return normal(reader.inside(tree.body, 0))
    return ()


class _Reader:
    """Walks over the elements of one document, white space folded as a browser would."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._left = MAX_NODES
        self._written = False
        """Whether anything stands on the current line."""
        self._space = False
        """Whether a space is due before what follows on this line."""
        self._breaks = 0
        """Line breaks that are due before what follows."""
        self._after_break = False
        """Whether a line break was just written, which ends a line and begins none."""
        self._in_link = 0

    def inside(self, element: LexborNode, depth: int) -> list[Node]:
        nodes: list[Node] = []
        child = element.child
        while child is not None:
            self._left -= 1
            if self._left < 0:
                raise Unreadable(f"more than {MAX_NODES} elements")
            nodes += self._node(child, depth + 1)
            child = child.next
        return nodes

    def _node(self, node: LexborNode, depth: int) -> list[Node]:
        tag = node.tag or ""
        if tag == "-text":
            return self._text(node.text(deep=True) or "")
        if tag in _SILENT or tag.startswith(("-", "_", "!")):
            return []
        if depth > MAX_DEPTH:
            return self._text(node.text(deep=True) or "")
        attributes = {key: value or "" for key, value in node.attributes.items()}
        if tag == "br":
            return self._due() + self._break()
        if tag in _STYLES:
            # A space before the element is not set off with it.
            return [*self._due(), Styled(_STYLES[tag], tuple(self.inside(node, depth)))]
        match tag:
            case "code" | "tt" | "kbd" | "samp":
                text = _SPACES.sub(" ", node.text(deep=True) or "").replace("\xa0", " ")
                return [*self._due(), *self._wrote([Code(text)])] if text.strip() else []
            case "pre":
                return self._block(lambda: [_code_block(node)])
            case "blockquote":
                return self._block(lambda: [Quote(tuple(self._fresh(node, depth)))])
            case "ul" | "ol":
                return self._block(lambda: [self._list(node, depth)])
            case "hr":
                return self._block(lambda: [Rule()])
            case "a":
                return self._link(node, attributes.get("href", ""), depth)
            case "img":
                return self._image(attributes)
            case "span" if "data-mx-spoiler" in attributes:
                before = self._due()
                return [
                    *before,
                    Spoiler(tuple(self.inside(node, depth)), attributes["data-mx-spoiler"].strip()),
                ]
            case "td" | "th":
                nodes = self.inside(node, depth)
                self._space = True
                return nodes
        if tag in _HEADINGS:
            return self._block(lambda: [Heading(_HEADINGS[tag], tuple(self._fresh(node, depth)))])
        if tag in _PARAGRAPHS or tag in _LINES:
            breaks = 2 if tag in _PARAGRAPHS else 1
            self._part(breaks)
            nodes = self.inside(node, depth)
            self._part(breaks)
            return nodes
        return self.inside(node, depth)

    def _text(self, text: str) -> list[Node]:
        words = _SPACES.split(text)
        nodes: list[Node] = []
        if words[0] == "" and len(words) > 1:
            self._space = True
        shown = " ".join(word for word in words if word)
        if not shown:
            return nodes
        nodes += self._due()
        shown = shown.replace("\xa0", " ")
        nodes += [Text(shown)] if self._in_link else linkified(shown)
        self._wrote(nodes)
        self._space = words[-1] == "" and len(words) > 1
        return nodes

    def _due(self) -> list[Node]:
        """Return the breaks or the space that were due."""
        text = ""
        if self._written and self._breaks:
            text = "\n" * self._breaks
        elif self._written and self._space and not self._after_break:
            text = " "
        self._breaks, self._space = 0, False
        return [Text(text)] if text else []

    def _break(self) -> list[Node]:
        self._space = False
        self._written = self._after_break = True
        return [Text("\n")]

    def _wrote(self, nodes: list[Node]) -> list[Node]:
        if nodes:
            self._written, self._after_break = True, False
        return nodes

    def _part(self, breaks: int) -> None:
        self._breaks = max(self._breaks, breaks)
        self._space = False

    def _begin(self) -> None:
        """Stand at the beginning of a line, with nothing before it."""
        self._written, self._space, self._breaks, self._after_break = False, False, 0, False

    def _fresh(self, element: LexborNode, depth: int) -> list[Node]:
        self._begin()
        return self.inside(element, depth)

    def _block(self, make: Callable[[], list[Node]]) -> list[Node]:
        """Read a block: it stands on lines of its own, so nothing is due before and after it."""
        self._begin()
        nodes = make()
        self._begin()
        return nodes

    def _list(self, element: LexborNode, depth: int) -> ItemList:
        items = tuple(tuple(self._fresh(item, depth)) for item in _items(element))
        return ItemList(items, is_ordered=element.tag == "ol")

    def _link(self, node: LexborNode, url: str, depth: int) -> list[Node]:
        url = url.strip()
        shown = " ".join((node.text(deep=True) or "").split())
        named = self._names.to_node(url, shown)
        if named is not None:
            return [*self._due(), *self._wrote([named])]
        if not is_web(url):
            return self.inside(node, depth)
        before = self._due()
        self._in_link += 1
        children = tuple(self.inside(node, depth))
        self._in_link -= 1
        return [*before, Link(url, children)]

    def _image(self, attributes: Mapping[str, str]) -> list[Node]:
        alternative = " ".join((attributes.get("alt") or attributes.get("title") or "").split())
        if not alternative:
            return []
        name, url = alternative.strip(":"), attributes.get("src", "")
        is_emoji = (
            "data-mx-emoticon" in attributes and url.partition(":")[0] in self._names.emoji_schemes and name
        )
        image: Node = Emoji(name, url) if is_emoji else Text(alternative)
        return [*self._due(), *self._wrote([image])]


def _code_block(element: LexborNode) -> CodeBlock:
    language = ""
    inner = element.child
    if inner is not None and inner.tag == "code":
        for name in (inner.attributes.get("class") or "").split():
            if name.startswith("language-"):
                language = name.removeprefix("language-")
    return CodeBlock((element.text(deep=True) or "").replace("\xa0", " "), language)


def _items(element: LexborNode) -> list[LexborNode]:
    items = []
    child = element.child
    while child is not None:
        if child.tag == "li":
            items.append(child)
        child = child.next
    return items


def is_web(url: str) -> bool:
    """Say whether a URL leads to a web page or a mailbox, and to nothing that a program would run."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in _WEB and bool(parts.netloc or (parts.scheme == "mailto" and parts.path))


def write(body: RichText, names: Names) -> str:
    """Write a body as HTML. Who cannot be named is written as text."""
    return _all(body, names, is_wrapped=False)


def _all(body: RichText, names: Names, *, is_wrapped: bool) -> str:
    """Write nodes; inside of an inline element (`is_wrapped`) spaces at the ends would move out of it."""
    parts = []
    for number, node in enumerate(body):
        if isinstance(node, Text):
            first, last = number == 0, number == len(body) - 1
            keeps_first = is_wrapped if first else _ends_a_line(body[number - 1])
            parts.append(_escaped(node.text, keeps_first=keeps_first, keeps_last=is_wrapped and last))
        else:
            parts.append(_written(node, names))
    return "".join(parts)


def _ends_a_line(node: Node) -> bool:
    match node:
        case Text(text):
            return text.endswith("\n")
        case Styled() | Link() | Spoiler():
            return _ends_a_line(node.children[-1])
    return False


def _written(node: Node, names: Names) -> str:
    match node:
        case Text(text):
            return _escaped(text, keeps_first=True, keeps_last=True)
        case Styled(style, children):
            tag = _TAGS[style]
            return f"<{tag}>{_all(children, names, is_wrapped=True)}</{tag}>"
        case Code(text):
            return f"<code>{_escaped(text)}</code>"
        case Link(url, children):
            return f'<a href="{html.escape(url)}">{_all(children, names, is_wrapped=True)}</a>'
        case Mention(who, name):
            url_of = names.to_url(who)
            shown = _escaped(name)
            return f'<a href="{html.escape(url_of)}">{shown}</a>' if url_of else f"@{shown.removeprefix('@')}"
        case Pointer(to, shown):
            url_of = names.to_url(to)
            return f'<a href="{html.escape(url_of)}">{_escaped(shown)}</a>' if url_of else _escaped(shown)
        case Hashtag(tag):
            return f"#{html.escape(tag)}"
        case Emoji(shortcode, url):
            name = html.escape(f":{shortcode}:")
            return f'<img data-mx-emoticon height="32" src="{html.escape(url)}" alt="{name}" title="{name}">'
        case Spoiler(children, reason):
            inner = _all(children, names, is_wrapped=True)
            return f'<span data-mx-spoiler="{html.escape(reason)}">{inner}</span>'
        case CodeBlock(text, language):
            name = f' class="language-{html.escape(language)}"' if language else ""
            return f"<pre><code{name}>{html.escape(text)}\n</code></pre>"
        case Quote(children):
            return f"<blockquote>{write(children, names)}</blockquote>"
        case ItemList(items, is_ordered):
            tag = "ol" if is_ordered else "ul"
            inner = "".join(f"<li>{write(item, names)}</li>" for item in items)
            return f"<{tag}>{inner}</{tag}>"
        case Heading(level, children):
            return f"<h{level}>{write(children, names)}</h{level}>"
        case Rule():
            return "<hr>"
        case _:
            assert_never(node)


def _escaped(text: str, *, keeps_first: bool = True, keeps_last: bool = True) -> str:
    """Escape text; spaces that a browser would fold become no-break spaces."""
    shown = _FOLDED.sub("\xa0", html.escape(text))
    if keeps_first and shown.startswith(" "):
        shown = "\xa0" + shown[1:]
    if keeps_last and shown.endswith(" "):
        shown = shown[:-1] + "\xa0"
    return shown.replace("\n", "<br>")
