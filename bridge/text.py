"""Text between networks: the body as a tree, and names that cannot pretend to be somebody else's.

A body is a tuple of nodes in normal form (`normal`): what two networks call the same text is the same
value. Line breaks are U+000A inside `Text`; an empty line parts paragraphs. Blocks stand on lines of
their own, so no line breaks are written beside them.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeAlias, assert_never

from bridge.reference import Ref

MAX_NAME_CHARS = 100
MAX_DEPTH = 30
"""Nodes inside nodes; what lies deeper keeps its text and loses its form."""


class Style(StrEnum):
    """How a run of text is set off; the value is the Markdown that stands for it where it cannot be."""

    STRONG = "**"
    EMPHASIS = "*"
    STRIKE = "~~"
    UNDERLINE = "__"


@dataclass(frozen=True, slots=True)
class Text:
    """A run of characters without formatting; line breaks are U+000A."""

    text: str


@dataclass(frozen=True, slots=True)
class Styled:
    """A run that is set off."""

    style: Style
    children: "RichText"


@dataclass(frozen=True, slots=True)
class Code:
    """Code within a line."""

    text: str


@dataclass(frozen=True, slots=True)
class Link:
    """A link to a web page (http, https) or a mailbox (mailto)."""

    url: str
    children: "RichText"


@dataclass(frozen=True, slots=True)
class Mention:
    """Somebody's name, which calls them."""

    who: Ref
    name: str


@dataclass(frozen=True, slots=True)
class Pointer:
    """A link to a post, a room or whatever else has a Ref."""

    to: Ref
    shown: str


@dataclass(frozen=True, slots=True)
class Hashtag:
    """A topic; `tag` is without its #."""

    tag: str


@dataclass(frozen=True, slots=True)
class Emoji:
    """A custom emoji: a small picture with a name (NIP-30, MSC2545)."""

    shortcode: str
    url: str


@dataclass(frozen=True, slots=True)
class Spoiler:
    """Text that is shown only when asked for."""

    children: "RichText"
    reason: str = ""


@dataclass(frozen=True, slots=True)
class CodeBlock:
    """Lines of code."""

    text: str
    language: str = ""


@dataclass(frozen=True, slots=True)
class Quote:
    """A quotation, on lines of its own."""

    children: "RichText"


@dataclass(frozen=True, slots=True)
class ItemList:
    """A list; each item is a body."""

    items: "tuple[RichText, ...]"
    is_ordered: bool = False


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading of level 1 to 6."""

    level: int
    children: "RichText"


@dataclass(frozen=True, slots=True)
class Rule:
    """A line across."""


Inline: TypeAlias = Text | Styled | Code | Link | Mention | Pointer | Hashtag | Emoji | Spoiler
Block: TypeAlias = CodeBlock | Quote | ItemList | Heading | Rule
Node: TypeAlias = Inline | Block
RichText: TypeAlias = tuple[Node, ...]

_BLOCKS = (CodeBlock, Quote, ItemList, Heading, Rule)

# Bidi controls turn text around, zero-width characters hide in it: both are used to impersonate.
_INVISIBLE = re.compile(r"[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\u061c\u180e]")
# Controls, lone surrogates (which UTF-8 cannot hold), line and paragraph separators.
_UNPRINTABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})


def rich(text: str) -> RichText:
    """Return plain text as a body. A lone surrogate, which UTF-8 cannot hold, becomes `?`."""
    return (Text(text.encode(errors="replace").decode()),) if text else ()


def normal(body: Sequence[Node]) -> RichText:
    """Return the body in normal form.

    Neighbouring texts are one; nothing is empty; no style stands in itself and no link in a link; blocks
    stand in no inline node; no white space at the ends, and no line break beside a block.
    """
    return _trimmed(_joined(_normal_nodes(body, frozenset(), 0)))


def _normal_nodes(body: Sequence[Node], around: frozenset[object], depth: int) -> list[Node]:
    if depth > MAX_DEPTH:
        text = "".join(plain((node,)) for node in body)
        return [Text(text)] if text else []
    nodes: list[Node] = []
    for node in body:
        nodes += _normal_node(node, around, depth + 1)
    return nodes


def _normal_node(node: Node, around: frozenset[object], depth: int) -> list[Node]:
    match node:
        case Text(text):
            return [Text(text.replace("\r\n", "\n"))] if text else []
        case Styled(style, children):
            inner = _normal_nodes(children, around | {style}, depth)
            return inner if style in around else _around_inlines(inner, lambda run: Styled(style, run))
        case Link(url, children):
            inner = _normal_nodes(children, around | {Link}, depth)
            return inner if Link in around else _around_inlines(inner, lambda run: Link(url, run))
        case Spoiler(children, reason):
            inner = _normal_nodes(children, around | {Spoiler}, depth)
            return inner if Spoiler in around else _around_inlines(inner, lambda run: Spoiler(run, reason))
        case Mention(_, name) | Pointer(_, name) if Link in around:
            return [Text(name)] if name else []
        case Hashtag(tag) if Link in around:
            return [Text(f"#{tag}")]
        case Code(text):
            return [node] if text else []
        case CodeBlock(text, language):
            text = text.strip("\n")
            return [CodeBlock(text, language)] if text.strip() else []
        case Quote(children):
            inner_body = _trimmed(_joined(_normal_nodes(children, frozenset(), depth)))
            return [Quote(inner_body)] if inner_body else []
        case ItemList(items, is_ordered):
            bodies = (_trimmed(_joined(_normal_nodes(item, frozenset(), depth))) for item in items)
            kept = tuple(item for item in bodies if item)
            return [ItemList(kept, is_ordered)] if kept else []
        case Heading(level, children):
            nodes = _around_inlines(
                _normal_nodes(children, frozenset(), depth), lambda run: Heading(level, run)
            )
            return [
                replace(one, children=trimmed) if isinstance(one, Heading) and one.level == level else one
                for one in nodes
                if not isinstance(one, Heading) or (trimmed := _trimmed(one.children))
            ]
        case Mention() | Pointer() | Hashtag() | Emoji() | Rule():
            return [node]
        case _:
            assert_never(node)


def _around_inlines(nodes: Sequence[Node], wrap: Callable[[RichText], Node]) -> list[Node]:
    """Put runs of inline nodes into what `wrap` makes, and leave blocks beside it."""
    wrapped: list[Node] = []
    run: list[Node] = []
    for node in [*nodes, None]:
        if node is not None and not isinstance(node, _BLOCKS):
            run.append(node)
            continue
        if joined := _joined(run):
            wrapped.append(wrap(joined))
        run = []
        if node is not None:
            wrapped.append(node)
    return wrapped


def _joined(nodes: Sequence[Node]) -> RichText:
    joined: list[Node] = []
    for node in nodes:
        last = joined[-1] if joined else None
        match last, node:
            case Text(before), Text(after):
                joined[-1] = Text(before + after)
            case Styled(one, before_), Styled(other, after_) if one == other:
                joined[-1] = Styled(one, _joined((*before_, *after_)))
            case _:
                joined.append(node)
    return tuple(joined)


def _trimmed(body: RichText) -> RichText:
    """Drop white space at the ends and line breaks beside blocks, also where it is inside of nodes."""
    parts: list[Node] = []
    for number, node in enumerate(body):
        if isinstance(node, _BLOCKS):
            parts.append(node)
            continue
        first, last = number == 0, number == len(body) - 1
        after_block = not first and isinstance(body[number - 1], _BLOCKS)
        before_block = not last and isinstance(body[number + 1], _BLOCKS)
        left = " \n" if first or after_block else ""
        right = " \n" if last or before_block else ""
        parts += _stripped(node, left, right)
    trimmed = _joined(parts)
    # What was between white space may be at an end now.
    return trimmed if trimmed == body else _trimmed(trimmed)


def _stripped(node: Node, left: str, right: str) -> list[Node]:
    match node:
        case Text(text):
            text = text.lstrip(left) if left else text
            text = text.rstrip(right) if right else text
            return [Text(text)] if text else []
        case Styled() | Link() | Spoiler():
            children = list(node.children)
            if left:
                children[:1] = _stripped(children[0], left, "")
            if right and children:
                children[-1:] = _stripped(children[-1], "", right)
            return [replace(node, children=tuple(children))] if children else []
        case _:
            return [node]


def plain(body: RichText) -> str:
    """Return the body as text alone, formatting in the Markdown that people write by hand."""
    return "".join(_text_of(node) for node in degrade(body, lambda node: False))


def _text_of(node: Node) -> str:
    assert isinstance(node, Text)
    return node.text


def degrade(body: RichText, can: Callable[[Node], bool]) -> RichText:
    """Return the body with what a network cannot show written out as text.

    `can` says of a node whether it is shown; its children were degraded before. A link that stays is
    asked for too: one whose text is not its address may be refused, to become the text and the address.
    """
    nodes: list[Node] = []
    for number, node in enumerate(body):
        written = _degraded(node, can)
        if isinstance(node, _BLOCKS) and not isinstance(written[0], _BLOCKS):
            # On lines of its own, as it was; blocks that stay need none.
            before = nodes[-1] if nodes else None
            after = body[number + 1] if number < len(body) - 1 else None
            if before is not None and not isinstance(before, _BLOCKS):
                nodes.append(Text("\n"))
            nodes += written
            if after is not None and not isinstance(after, _BLOCKS):
                nodes.append(Text("\n"))
        else:
            nodes += written
    return _joined(nodes)


def _degraded(node: Node, can: Callable[[Node], bool]) -> RichText:
    match node:
        case Styled() | Link() | Spoiler() | Quote() | Heading():
            shown: Node = replace(node, children=degrade(node.children, can))
        case ItemList():
            shown = replace(node, items=tuple(degrade(item, can) for item in node.items))
        case _:
            shown = node
    return (shown,) if isinstance(shown, Text) or can(shown) else _written(shown, can)


def _written(node: Node, can: Callable[[Node], bool]) -> RichText:
    """Return an inexpressible node as text; its children can be expressed already."""
    match node:
        case Text():
            return (node,)
        case Styled(style, children):
            # Underlining says no more than emphasis does, and its marks mean something else elsewhere.
            mark = "" if style is Style.UNDERLINE else style.value
            return (Text(mark), *children, Text(mark)) if mark else children
        case Code(text):
            return (Text(f"`{text}`"),)
        case Link(url, children):
            address = Link(url, (Text(url),))
            bare: RichText = (address,) if can(address) else (Text(url),)
            text = plain(children)
            if text in (url, url.removeprefix("mailto:")):
                return bare
            return (*children, Text(" ("), *bare, Text(")"))
        case Mention(_, name):
            return (Text(f"@{name.removeprefix('@')}"),)
        case Pointer(_, shown):
            return (Text(shown),)
        case Hashtag(tag):
            return (Text(f"#{tag}"),)
        case Emoji(shortcode):
            return (Text(f":{shortcode}:"),)
        case Spoiler(children, reason):
            return (Text(f"({reason}) ||" if reason else "||"), *children, Text("||"))
        case CodeBlock(text, language):
            return (Text(f"```{language}\n{text}\n```"),)
        case Quote(children):
            return _prefixed(children, "> ", "> ")
        case ItemList(items, is_ordered):
            lines: list[Node] = []
            for number, item in enumerate(items, 1):
                mark = f"{number}. " if is_ordered else "- "
                lines += (Text("\n"),) if lines else ()
                lines += _prefixed(item, mark, " " * len(mark))
            return tuple(lines)
        case Heading(level, children):
            return (Text("#" * level + " "), *children)
        case Rule():
            return (Text("———"),)
        case _:
            assert_never(node)


def _prefixed(body: RichText, first: str, others: str) -> RichText:
    """Put a mark before each line of a body whose blocks were written out, or stay as they are."""
    return (Text(first), *(_indented(node, others) for node in body))


def _indented(node: Node, mark: str) -> Node:
    match node:
        case Text(text):
            return Text(text.replace("\n", f"\n{mark}"))
        case Styled() | Link() | Spoiler():
            return replace(node, children=tuple(_indented(child, mark) for child in node.children))
        case _:
            return node


def mapped(body: RichText, change: Callable[[Node], Node]) -> RichText:
    """Return the body with `change` made to every node without children."""

    def of(node: Node) -> Node:
        match node:
            case Styled() | Link() | Spoiler() | Quote() | Heading():
                return replace(node, children=mapped(node.children, change))
            case ItemList():
                return replace(node, items=tuple(mapped(item, change) for item in node.items))
            case _:
                return change(node)

    return tuple(map(of, body))


def walk(body: RichText) -> Iterator[Node]:
    """Yield every node, what is inside of one after it."""
    for node in body:
        yield node
        match node:
            case Styled() | Link() | Spoiler() | Quote() | Heading():
                yield from walk(node.children)
            case ItemList():
                for item in node.items:
                    yield from walk(item)


def shorten(body: RichText, max_bytes: int) -> RichText:
    """Cut the body to at most `max_bytes` of UTF-8 as text, the last character an ellipsis if it was longer.

    What is cut loses its formatting: half a link or half a list would say something else.
    """
    text = plain(body)
    encoded = text.encode()
    if len(encoded) <= max_bytes:
        return body
    ellipsis = "…"
    # "ignore" drops the character that the cut went through.
    return rich(encoded[: max_bytes - len(ellipsis.encode())].decode(errors="ignore") + ellipsis)


# Written without spaces, ended where a sentence would: what people paste into text.
_URL = re.compile(r"https?://[^\s<>\"'`\u0000-\u001f]{1,2000}", re.IGNORECASE)
# NIP-24 and the networks agree: letters and digits of any script, and at least one that is no digit.
_HASHTAG = re.compile(r"(?<![\w/&#])#(\w*[^\W\d]\w*)")
_SENTENCE_ENDS = ".,;:!?…"
_OPENED_BY = {")": "(", "]": "[", "}": "{"}


def linkified(text: str) -> list[Node]:
    """Return plain text as nodes, its web addresses links and its #words hashtags."""
    nodes: list[Node] = []
    at = 0
    for found in _URL.finditer(text):
        if found.start() < at:
            continue
        url = _without_sentence(found[0])
        if len(url) <= len("https://"):
            continue
        nodes += _tagged(text[at : found.start()])
        nodes.append(Link(url, (Text(url),)))
        at = found.start() + len(url)
    nodes += _tagged(text[at:])
    return nodes


def _tagged(text: str) -> list[Node]:
    nodes: list[Node] = []
    at = 0
    for found in _HASHTAG.finditer(text):
        if at < found.start():
            nodes.append(Text(text[at : found.start()]))
        nodes.append(Hashtag(found[1]))
        at = found.end()
    if at < len(text):
        nodes.append(Text(text[at:]))
    return nodes


def _without_sentence(url: str) -> str:
    """Drop what belongs to the sentence around an address: its full stop, a bracket opened before it."""
    while url:
        last = url[-1]
        if last not in _SENTENCE_ENDS and not (
            last in _OPENED_BY and url.count(last) > url.count(_OPENED_BY[last])
        ):
            break
        url = url[:-1]
    return url


def clean_name(name: str | None) -> str | None:
    """Return a name without control, direction and invisible characters; None when nothing is left."""
    if name is None:
        return None
    visible = _INVISIBLE.sub("", unicodedata.normalize("NFC", name))
    printable = "".join(" " if unicodedata.category(c) in _UNPRINTABLE else c for c in visible)
    return " ".join(printable.split())[:MAX_NAME_CHARS] or None
