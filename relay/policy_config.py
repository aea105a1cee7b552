"""The settings of the operator's policies and plugins: one frozen model per table.

Lists of entries for kinds (`"1=30/minute"`) are kept as text and read by the policies: by `relay.lists`.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from relay.lists import (
    MAX_SHOWN,
    by_kind,
    parse_key,
    parse_network,
    parse_phrase,
    parse_rate,
    parse_span,
    read_list,
)
from relay.settings import Table


def _checked(parse: Callable[[str], object]) -> AfterValidator:
    def check(text: str) -> str:
        parse(text)
        return text

    return AfterValidator(check)


def _number(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 12:
        raise ValueError("expected a number behind the '='")
    return int(text)


def _file_of(parse: Callable[[str], object]) -> AfterValidator:
    def check(path: Path) -> Path:
        try:
            _, mistakes = read_list(path, parse)
        except OSError as error:
            raise ValueError(f"a file that can be read ({error.strerror})") from None
        if mistakes:
            told = "".join(f"\n      {mistake}" for mistake in mistakes[:MAX_SHOWN])
            raise ValueError(f"a list without mistakes in it: {told}\n     ")
        return path

    return AfterValidator(check)


_DOMAIN = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)+").fullmatch
_INSTEAD = re.compile(r"([^=]+)=(https?://[^/\s]+)/?").fullmatch


def _domain(text: str) -> str:
    if not _DOMAIN(text.lower()):
        raise ValueError("expected a domain, such as example.com")
    return text.lower()


def _instead(text: str) -> str:
    found = _INSTEAD(text)
    if found is None:
        raise ValueError("expected a domain, '=' and a URL, such as example.com=http://127.0.0.1:8080")
    return f"{_domain(found[1])}={found[2]}"


Domain = Annotated[str, AfterValidator(_domain)]
Instead = Annotated[str, AfterValidator(_instead)]
Key = Annotated[str, AfterValidator(parse_key)]
Kinds = Annotated[
    str, BeforeValidator(lambda kind: str(kind) if type(kind) is int else kind), _checked(parse_span)
]
Network = Annotated[str, _checked(parse_network)]
Phrase = Annotated[str, _checked(parse_phrase)]
RateOfKinds = Annotated[str, _checked(lambda text: by_kind(text, parse_rate))]
NumberOfKinds = Annotated[str, _checked(lambda text: by_kind(text, _number))]
Rate = Annotated[str, _checked(parse_rate)]
KeyFile = Annotated[Path, _file_of(parse_key)]
KindFile = Annotated[Path, _file_of(parse_span)]
NetworkFile = Annotated[Path, _file_of(parse_network)]
PhraseFile = Annotated[Path, _file_of(parse_phrase)]


class ListsConfig(Table):
    """[relay.policies.lists]: who and what is taken, and who and what is not.

    A list that allows, and is not empty, refuses all that is not on it.
    """

    allow_keys: tuple[Key, ...] = Field((), description="Keys (npub or hex) that may publish; no others.")
    allow_keys_files: tuple[KeyFile, ...] = Field(
        (),
        description="More of them, one on each line; read again when the file changes, as all these files.",
    )
    deny_keys: tuple[Key, ...] = Field((), description="Keys that may not publish.")
    deny_keys_files: tuple[KeyFile, ...] = Field((), description="More of them.")
    allow_kinds: tuple[Kinds, ...] = Field(
        (), description='Kinds that are taken, such as "1" or "30000-39999"; no others.'
    )
    allow_kinds_files: tuple[KindFile, ...] = Field((), description="More of them.")
    deny_kinds: tuple[Kinds, ...] = Field((), description="Kinds that are not taken.")
    deny_kinds_files: tuple[KindFile, ...] = Field((), description="More of them.")
    allow_addresses: tuple[Network, ...] = Field(
        (), description='Addresses and networks that are served, such as "192.0.2.0/24"; no others.'
    )
    allow_addresses_files: tuple[NetworkFile, ...] = Field((), description="More of them.")
    deny_addresses: tuple[Network, ...] = Field((), description="Addresses and networks that are not served.")
    deny_addresses_files: tuple[NetworkFile, ...] = Field((), description="More of them.")
    deny_words: tuple[Phrase, ...] = Field(
        (),
        description="Words and phrases that no content and no tag may hold: whole words, in any case and "
        "with any accents. Encrypted kinds are not looked into.",
    )
    deny_words_files: tuple[PhraseFile, ...] = Field((), description="More of them.")


class RatesConfig(Table):
    """[relay.policies.rates]: how often, over all workers, in bursts as large.

    Of several entries the first that names an event's kind counts for it.
    """

    events_per_address: tuple[RateOfKinds, ...] = Field(
        (),
        description='Events from one address, such as "1=10/minute" or "*=600/hour"; an IPv6 /64 is one '
        "address.",
    )
    events_per_key: tuple[RateOfKinds, ...] = Field((), description="Events of one author.")
    events_per_authenticated_key: tuple[RateOfKinds, ...] = Field(
        (), description="Events brought by one key that the connection proved (NIP-42)."
    )
    requests_per_address: Rate | None = Field(
        None,
        examples=["600/minute"],
        description="REQ, COUNT and NEG-OPEN from one address; unset: as in relay.limits.",
    )
    requests_per_authenticated_key: Rate | None = Field(
        None, examples=["600/minute"], description="The same by one proved key; unset: no limit."
    )


class WorkConfig(Table):
    """[relay.policies.work]: proof of work by kind (NIP-13), beside relay.limits.min_pow_difficulty."""

    least: tuple[NumberOfKinds, ...] = Field(
        (),
        description='Leading zero bits that an event\'s id must have, such as "1=16"; the first entry that '
        "names a kind counts.",
    )


class TrustConfig(Table):
    """[relay.policies.trust]: a web of trust, made of the follow lists (kind 3) that are stored.

    Members, admins and moderators always may publish. Others are told `restricted:`.
    """

    roots: tuple[Key, ...] = Field(
        (), description="Keys (npub or hex) that trust begins with; none: no web of trust."
    )
    depth: int = Field(
        2, ge=0, le=6, description="How far it reaches: 1 for whom the roots follow, 2 for whom those follow."
    )
    refresh_seconds: int = Field(600, ge=1, description="How often it is worked out anew, in seconds.")
    max_keys: int = Field(
        200_000, ge=1, le=5_000_000, description="Keys that are trusted, the nearest first; 100 bytes each."
    )


class NamesConfig(Table):
    """[relay.policies.names]: only authors with a name (NIP-05) at one of some domains may publish.

    Members, admins and moderators always may; gift wraps are taken from anybody.
    """

    domains: tuple[Domain, ...] = Field(
        (),
        examples=[["example.com"]],
        description="The domains; none: nobody needs a name. The name is the one in the author's profile, "
        "which is taken if it is right.",
    )
    verified_seconds: int = Field(
        86_400, ge=60, description="How long it is remembered that a domain vouches for a key, in seconds."
    )
    failed_seconds: int = Field(
        600, ge=10, description="How long it is remembered that it does not, in seconds."
    )
    instead: tuple[Instead, ...] = Field(
        (),
        examples=[["example.com=http://127.0.0.1:8080"]],
        description="Hosts that are asked in place of a domain, as domain=URL. Only these may have addresses "
        "that are not public.",
    )


class WindowConfig(Table):
    """[relay.policies.window]: created_at by kind, beside what relay.limits says for all kinds."""

    max_age_seconds: tuple[NumberOfKinds, ...] = Field(
        (),
        description='How old an event may be when it arrives, such as "1=86400"; the first entry that names '
        "its kind counts.",
    )
    max_seconds_in_future: tuple[NumberOfKinds, ...] = Field(
        (), description="How far ahead of the relay's clock it may be, likewise."
    )


class ShapeConfig(Table):
    """[relay.policies.shape]: sizes by kind, beside what relay.limits says for all kinds.

    The first entry that names an event's kind counts.
    """

    max_content_chars: tuple[NumberOfKinds, ...] = Field(
        (), description='The longest content, in Unicode characters, such as "1=5000".'
    )
    max_tags: tuple[NumberOfKinds, ...] = Field((), description='Tags of one event, such as "1=100".')
    max_mentions: tuple[NumberOfKinds, ...] = Field(
        (), description='People that one event names (`p` tags), such as "1=20".'
    )


class ReadingConfig(Table):
    """[relay.policies.reading]: who may ask for what. Admins and trusted bridge keys may ask anything."""

    members_only: bool = Field(False, description="Reading and counting is for members (NIP-43) only.")
    member_kinds: tuple[Kinds, ...] = Field((), description="Kinds that only members may see.")
    kinds: tuple[Kinds, ...] = Field(
        (), description="Kinds that may be asked for; a filter must name its kinds then. None: all."
    )
    must_name: tuple[Literal["ids", "authors", "kinds", "tags", "search"], ...] = Field(
        (),
        description="Conditions of which every filter must have at least one; none: it may do without.",
        examples=[["ids", "authors", "tags"]],
    )
    max_values: int | None = Field(
        None,
        ge=1,
        examples=[500],
        description="Ids, authors, kinds and tag values in one filter of who proved no key.",
    )


class BudgetConfig(Table):
    """[relay.policies.budget]: how much work questions may be; not for admins, members and trusted keys.

    Work is the time in which a worker reads for the question; it is not known before.
    """

    seconds_per_question: float | None = Field(
        None, ge=0.001, examples=[0.5], description="Of work for one REQ, COUNT or Negentropy session."
    )
    rows_per_question: int | None = Field(
        None, ge=1, examples=[2_000], description="Events sent for one REQ, over all its filters."
    )
    seconds_per_minute: float | None = Field(
        None, ge=0.001, examples=[5.0], description="Of work for all questions from one address in a minute."
    )
    rows_per_minute: int | None = Field(
        None, ge=1, examples=[20_000], description="Events in all answers to one address in a minute."
    )


class PoliciesConfig(Table):
    """[relay.policies]: what the operator wants beside what NIPs and limits say; all off at first."""

    lists: ListsConfig = ListsConfig()
    rates: RatesConfig = RatesConfig()
    work: WorkConfig = WorkConfig()
    trust: TrustConfig = TrustConfig()
    names: NamesConfig = NamesConfig()
    window: WindowConfig = WindowConfig()
    shape: ShapeConfig = ShapeConfig()
    reading: ReadingConfig = ReadingConfig()
    budget: BudgetConfig = BudgetConfig()


class WritePluginConfig(Table):
    """[relay.plugins.write]: a program that decides what is taken; strfry's plugins work as they are."""

    command: str = Field(
        "",
        description="The path of a program; where it holds a space, a command for a shell. Empty: none. Each "
        "worker runs its own.",
        examples=["/etc/torv/plugin.py"],
    )
    seconds: float = Field(2.0, gt=0, le=60, description="How long an answer may take, in seconds.")
    on_failure: Literal["refuse", "accept"] = Field(
        "refuse",
        description="What becomes of events that it does not answer for, in time or at all: refuse "
        '(as "error:", which clients try again) or accept.',
    )
    kinds: tuple[Kinds, ...] = Field((), description="Kinds that it is asked about; none: all.")
    processes: int = Field(
        1,
        ge=1,
        le=64,
        description="How many of it each worker runs: a program that answers one line after the other, and "
        "waits for something meanwhile, gets more done by several.",
    )


class ReadPluginConfig(Table):
    """[relay.plugins.read]: a program that decides who sees which events."""

    command: str = Field(
        "",
        description="The path of a program; where it holds a space, a command for a shell. Empty: none. Each "
        "worker runs its own.",
        examples=["/etc/torv/hide.py"],
    )
    seconds: float = Field(2.0, gt=0, le=60, description="How long an answer may take, in seconds.")
    on_failure: Literal["hide", "show"] = Field(
        "hide", description="What becomes of events that it does not answer for, in time or at all."
    )
    kinds: tuple[Kinds, ...] = Field(
        (), description="Kinds that it is asked about; none: all. Others are as fast as without it."
    )
    max_rows: int = Field(
        5_000,
        ge=1,
        description="Events that one question may have it look at beyond those that are sent; a COUNT or "
        "Negentropy session of more is refused.",
    )


class PluginsConfig(Table):
    """[relay.plugins]: programs that judge for the relay, asked and answering in lines of JSON."""

    write: WritePluginConfig = WritePluginConfig()
    read: ReadPluginConfig = ReadPluginConfig()


_RULE_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}").fullmatch
_TAG = re.compile(r"[a-zA-Z]=.+", re.DOTALL).fullmatch


def _tag(text: str) -> str:
    if not _TAG(text):
        raise ValueError("expected a letter, '=' and a value, such as t=test")
    return text


class RetentionConfig(Table):
    """[relay.retention.NAME]: a rule about how long events are kept.

    It covers what all of kinds, authors and tags match; of these, what is over any of its bounds goes.
    """

    kinds: tuple[Annotated[int, Field(ge=0, le=65_535)], ...] = Field(
        (),
        examples=[[1, 7]],
        description="The kinds it covers; empty: all but replaceable ones (profiles, lists, articles), "
        "deletions, requests to vanish, polls and votes, and what groups and members are made of.",
    )
    authors: tuple[Key, ...] = Field(
        (), description="Whose events it covers (npub or hex); empty: everybody's."
    )
    tags: tuple[Annotated[str, AfterValidator(_tag)], ...] = Field(
        (),
        examples=[["t=test"]],
        description="Tags that an event needs one of, for each letter that is named.",
    )
    max_age_seconds: int | None = Field(
        None,
        ge=60,
        examples=[7_776_000],
        description="How old an event gets, by its created_at; older ones are not taken. Unset: any age.",
    )
    max_events: int | None = Field(
        None, ge=0, examples=[1_000_000], description="How many stay, the newest; unset: all."
    )
    max_bytes: int | None = Field(
        None,
        ge=0,
        examples=[20_000_000_000],
        description="How much room they take, the index included (about); the oldest go. Unset: any.",
    )
    max_events_per_author: int | None = Field(
        None, ge=0, examples=[5_000], description="How many of one author's stay, the newest; unset: all."
    )
    exempt_authors: tuple[Key, ...] = Field((), description="Whose events it leaves alone.")
    exempt_admins: bool = Field(
        True, description="Whether it leaves those of admins, moderators and the relay's own key alone."
    )
    exempt_members: bool = Field(False, description="Whether it leaves those of members (NIP-43) alone.")

    @model_validator(mode="after")
    def _has_a_bound(self) -> Self:
        bounds = (self.max_age_seconds, self.max_events, self.max_bytes, self.max_events_per_author)
        if bounds == (None,) * len(bounds):
            raise ValueError(
                "expected a bound: max_age_seconds, max_events, max_bytes or max_events_per_author"
            )
        return self


def _rule_name(name: str) -> str:
    if not _RULE_NAME(name):
        raise ValueError("expected names of a-z, 0-9 and '-'")
    return name


RuleName = Annotated[str, AfterValidator(_rule_name)]
