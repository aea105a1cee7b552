"""Bodies of every shape, for property tests."""

from typing import Any

from hypothesis import strategies as st

from bridge.reference import Ref
from bridge.text import (
    Code,
    CodeBlock,
    Emoji,
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
)

# Without what text alone would be read as: an address, a hashtag, a no-break space.
_LETTERS = st.sampled_from([*"abc éß日🔥<>&\"'*_`~|[]()!.-", " ", " ", "\n"])
_WORDS = st.text(_LETTERS, min_size=1, max_size=12)
_LINE = st.text(st.sampled_from("abé<&x"), min_size=1, max_size=8)

_LEAVES: st.SearchStrategy[Any] = st.one_of(
    st.builds(Text, _WORDS),
    st.builds(Text, _WORDS),
    st.builds(Code, _LINE),
    st.builds(Mention, st.sampled_from([Ref("matrix", "@bob:example.org")]), _LINE),
    st.builds(
        Pointer, st.sampled_from([Ref("matrix", "$event:example.org"), Ref("matrix", "!room:x")]), _LINE
    ),
    st.builds(Emoji, st.sampled_from(["wave", "cat_1"]), st.just("mxc://example.org/abc")),
    st.builds(CodeBlock, _WORDS, st.sampled_from(["", "python"])),
    st.builds(Rule),
)


def _branches(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    bodies = st.lists(children, max_size=4).map(tuple)
    return st.one_of(
        st.builds(Styled, st.sampled_from(Style), bodies),
        st.builds(Link, st.sampled_from(["https://example.org/a?b=c&d", "mailto:a@example.org"]), bodies),
        st.builds(Spoiler, bodies, st.sampled_from(["", "the end"])),
        st.builds(Quote, bodies),
        st.builds(ItemList, st.lists(bodies, max_size=3).map(tuple), st.booleans()),
        st.builds(Heading, st.integers(1, 6), bodies),
    )


BODIES: st.SearchStrategy[RichText] = st.lists(
    st.recursive(_LEAVES, _branches, max_leaves=12), max_size=6
).map(normal)
