"""Bodies as HTML: what Matrix and the Fediverse write."""

import pytest
from hypothesis import given

from bridge.html import MAX_HTML_CHARS, Unreadable, read, write
from bridge.networks.matrix.names import names
from bridge.reference import Ref
from bridge.text import (
    Code,
    CodeBlock,
    Emoji,
    Hashtag,
    Heading,
    ItemList,
    Link,
    Mention,
    Pointer,
    Quote,
    RichText,
    Rule,
    Spoiler,
    Style,
    Styled,
    Text,
    normal,
    plain,
)
from tests.bridge.bodies import BODIES

NAMES = names("!room:example.org")
BOB = Ref("matrix", "@bob:example.org")


@given(BODIES)
def test_what_is_written_is_read_again_as_it_was(body: RichText) -> None:
    assert read(write(body, NAMES), NAMES) == body


@pytest.mark.parametrize(
    ("source", "body"),
    [
        ("plain", (Text("plain"),)),
        ("  two\n words ", (Text("two words"),)),
        ("<p>one</p><p>two</p>", (Text("one\n\ntwo"),)),
        ("<p>one</p>\n<p>two<br>three</p>\n", (Text("one\n\ntwo\nthree"),)),
        ("<div>one</div><div>two</div>", (Text("one\ntwo"),)),
        ("a <b>b </b>c", (Text("a "), Styled(Style.STRONG, (Text("b"),)), Text(" c"))),
        (
            "<strong>a<em>b</em></strong>",
            (Styled(Style.STRONG, (Text("a"), Styled(Style.EMPHASIS, (Text("b"),)))),),
        ),
        ("<s>x</s><u>y</u>", (Styled(Style.STRIKE, (Text("x"),)), Styled(Style.UNDERLINE, (Text("y"),)))),
        ("see <code>a  b</code>", (Text("see "), Code("a b"))),
        (
            '<pre><code class="language-py">a\n  b\n</code></pre>after',
            (CodeBlock("a\n  b", "py"), Text("after")),
        ),
        ("a<blockquote><p>b</p></blockquote>c", (Text("a"), Quote((Text("b"),)), Text("c"))),
        (
            "<ul><li>a</li> <li><b>b</b></li></ul>",
            (ItemList(((Text("a"),), (Styled(Style.STRONG, (Text("b"),)),))),),
        ),
        ("<ol><li>a</li></ol>", (ItemList(((Text("a"),),), is_ordered=True),)),
        ("<h2>Title</h2>text<hr>", (Heading(2, (Text("Title"),)), Text("text"), Rule())),
        (
            '<a href="https://example.org/">here</a>',
            (Link("https://example.org/", (Text("here"),)),),
        ),
        (
            "see https://example.org/a.",
            (Text("see "), Link("https://example.org/a", (Text("https://example.org/a"),)), Text(".")),
        ),
        ("on #nostr", (Text("on "), Hashtag("nostr"))),
        ('<a href="https://matrix.to/#/@bob:example.org">Bob</a>: hi', (Mention(BOB, "Bob"), Text(": hi"))),
        ('<a href="https://matrix.to/#/%40bob%3Aexample.org">@Bob</a>', (Mention(BOB, "Bob"),)),
        (
            '<a href="https://matrix.to/#/!r:x/$e:x?via=x">that</a>',
            (Pointer(Ref("matrix", "$e:x"), "that"),),
        ),
        ('<span data-mx-spoiler="end">he dies</span>', (Spoiler((Text("he dies"),), "end"),)),
        ('<img data-mx-emoticon src="mxc://x/y" alt=":wave:">', (Emoji("wave", "mxc://x/y"),)),
        ("<table><tr><td>a</td><td>b</td></tr><tr><td>c</td></tr></table>", (Text("a b\nc"),)),
        ("<mx-reply><blockquote>old</blockquote></mx-reply>new", (Text("new"),)),
        ("<font color='red'>red</font>", (Text("red"),)),
    ],
)
def test_elements_mean_what_their_writers_mean(source: str, body: RichText) -> None:
    assert read(source, NAMES) == body


@pytest.mark.parametrize(
    ("source", "body"),
    [
        ("<script>alert(1)</script>x", (Text("x"),)),
        ('<a href="javascript:alert(1)">x</a>', (Text("x"),)),
        ('<a href="data:text/html,x">x</a>', (Text("x"),)),
        ('<a href="https://">x</a>', (Text("x"),)),
        ('<img src="https://example.org/track.png">', ()),
        ('<img data-mx-emoticon src="https://example.org/track.png" alt=":x:">', (Text(":x:"),)),
        ("<iframe>x</iframe>", ()),
        ("<!-- hidden -->", ()),
        ("", ()),
        ("a\ud800b", (Text("a?b"),)),
    ],
)
def test_nothing_else_gets_through(source: str, body: RichText) -> None:
    assert read(source, NAMES) == body


@pytest.mark.parametrize(
    "tag", ["b", "blockquote", "ul><li", "span data-mx-spoiler", "div", "a href=https://x.org/"]
)
def test_a_deep_nest_keeps_its_text(tag: str) -> None:
    body = read(f"<{tag}>" * 5_000 + "deep", NAMES)

    assert "deep" in plain(body)


def test_what_is_too_long_is_refused() -> None:
    with pytest.raises(Unreadable, match="longer than 200000 characters"):
        read("x" * (MAX_HTML_CHARS + 1), NAMES)


def test_too_many_elements_are_refused() -> None:
    with pytest.raises(Unreadable, match="more than 20000 elements"):
        read("<br>" * 20_001, NAMES)


def test_text_cannot_become_an_element() -> None:
    body = normal((Text("<b>&amp;"), Link('https://x.org/"><script>', (Text("x"),))))

    assert write(body, NAMES) == '&lt;b&gt;&amp;amp;<a href="https://x.org/&quot;&gt;&lt;script&gt;">x</a>'


def test_who_cannot_be_named_is_written_as_text() -> None:
    body = (Mention(Ref("nostr", "ab" * 32), "Bob"), Text("!"))

    assert write(body, NAMES) == "@Bob!"
