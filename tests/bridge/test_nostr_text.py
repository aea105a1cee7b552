"""Bodies as the plain text of Nostr."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.networks.nostr.text import can_write, to_body, to_content
from bridge.reference import Ref
from bridge.text import (
    Code,
    CodeBlock,
    Emoji,
    Hashtag,
    ItemList,
    Link,
    Mention,
    Node,
    Pointer,
    Quote,
    RichText,
    Spoiler,
    Style,
    Styled,
    Text,
    degrade,
    normal,
)
from relay.nostr import nip19
from relay.nostr.event import EventId, PubKey
from tests.bridge.bodies import BODIES

BOB = PubKey("7e7e9c42a91bfef19fa929e5fda1b72e0ebc1a4c1141673e2794234d86addf4e")
NPUB = nip19.encode(nip19.Npub(BOB))
NOTE = EventId("ab" * 32)
NEVENT = nip19.encode(nip19.Nevent(NOTE))
SHORT = f"{NPUB[:12]}…"


@given(BODIES)
def test_what_comes_back_is_what_plain_text_can_hold(body: RichText) -> None:
    content, tags = to_content(body)

    assert to_body(content, tags) == to_body(*to_content(to_body(content, tags)))
    assert to_content(to_body(content, tags))[0] == content.strip(" \n")


@given(st.text(), st.lists(st.lists(st.text(max_size=8), min_size=1, max_size=4).map(tuple), max_size=3))
def test_any_text_is_read(content: str, tags: list[tuple[str, ...]]) -> None:
    to_body(content, tags)


@pytest.mark.parametrize(
    ("node", "content", "tags"),
    [
        (Text("hello"), "hello", ()),
        (Mention(Ref("nostr", BOB), "Bob"), f"nostr:{NPUB}", (("p", BOB),)),
        (Mention(Ref("matrix", "@carol:x"), "Carol"), "@Carol", ()),
        (Pointer(Ref("nostr", NOTE), "that"), f"nostr:{NEVENT}", (("q", NOTE),)),
        (Hashtag("Nostr"), "#Nostr", (("t", "nostr"),)),
        (Emoji("cat", "https://x.org/cat.png"), ":cat:", (("emoji", "cat", "https://x.org/cat.png"),)),
        (Emoji("cat", "mxc://x/y"), ":cat:", ()),
        (Link("https://x.org/a", (Text("https://x.org/a"),)), "https://x.org/a", ()),
        (Link("https://x.org/a", (Text("here"),)), "here (https://x.org/a)", ()),
        (Link("mailto:a@x.org", (Text("a@x.org"),)), "mailto:a@x.org", ()),
        (Styled(Style.STRONG, (Text("a"),)), "**a**", ()),
        (Styled(Style.EMPHASIS, (Text("a"),)), "*a*", ()),
        (Styled(Style.STRIKE, (Text("a"),)), "~~a~~", ()),
        (Styled(Style.UNDERLINE, (Text("a"),)), "a", ()),
        (Code("a"), "`a`", ()),
        (CodeBlock("a\nb", "py"), "```py\na\nb\n```", ()),
        (Quote((Text("a\nb"),)), "> a\n> b", ()),
        (ItemList(((Text("a"),), (Text("b\nc"),))), "- a\n- b\n  c", ()),
        (ItemList(((Text("a"),),), is_ordered=True), "1. a", ()),
        (Spoiler((Text("a"),), "end"), "(end) ||a||", ()),
    ],
)
def test_nodes_are_written_as_people_type_them(node: Node, content: str, tags: tuple[object, ...]) -> None:
    assert to_content((node,)) == (content, tags)


def test_blocks_stand_on_lines_of_their_own() -> None:
    body = (Text("a"), Quote((Text("b"),)), CodeBlock("c"), Text("d"))

    assert to_content(body)[0] == "a\n> b\n```\nc\n```\nd"


def test_who_is_mentioned_twice_is_tagged_once() -> None:
    bob = Mention(Ref("nostr", BOB), "Bob")

    assert to_content((bob, Text(" "), bob))[1] == (("p", BOB),)


@pytest.mark.parametrize(
    ("content", "body"),
    [
        (f"hi nostr:{NPUB}!", (Text("hi "), Mention(Ref("nostr", BOB), SHORT), Text("!"))),
        (f"hi @{NPUB}", (Text("hi "), Mention(Ref("nostr", BOB), SHORT))),
        (f"see nostr:{NEVENT}", (Text("see "), Pointer(Ref("nostr", NOTE), f"nostr:{NEVENT}"))),
        ("nostr:npub1junk", (Text("nostr:npub1junk"),)),
        (f"https://x.org/{NPUB}", (Link(f"https://x.org/{NPUB}", (Text(f"https://x.org/{NPUB}"),)),)),
        (
            "(https://x.org/a_(b)).",
            (Text("("), Link("https://x.org/a_(b)", (Text("https://x.org/a_(b)"),)), Text(").")),
        ),
        ("#nostr, #1 #日本", (Hashtag("nostr"), Text(", #1 "), Hashtag("日本"))),
        ("**not bold**", (Text("**not bold**"),)),
        ("a\r\nb", (Text("a\nb"),)),
    ],
)
def test_text_is_read_as_clients_show_it(content: str, body: RichText) -> None:
    assert to_body(content, ()) == body


def test_an_emoji_needs_its_tag() -> None:
    tags = [("emoji", "cat", "https://x.org/cat.png"), ("emoji", "dog")]

    assert to_body(":cat: :dog:", tags) == (Emoji("cat", "https://x.org/cat.png"), Text(" :dog:"))


def test_what_can_be_written_stays_what_it_is() -> None:
    body = normal((Text("hi "), Mention(Ref("nostr", BOB), SHORT), Text(" on "), Hashtag("nostr")))

    assert degrade(body, can_write) == body
    assert to_body(*to_content(body)) == body
