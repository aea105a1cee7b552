"""The relay's settings: one frozen model per table of the configuration file.

Every field carries its default and the sentence that stands above it in config.example.toml.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

import orjson
from pydantic import AfterValidator, Field, StringConstraints, ValidationInfo, field_validator

from relay.nostr import kinds as event_kinds
from relay.nostr.filter import InvalidFilter, parse_filter
from relay.nostr.kinds import MAX_KIND, Retention, retention
from relay.nostr.nip19 import public_key
from relay.nostr.urls import normalize
from relay.policy_config import PluginsConfig, PoliciesConfig, RetentionConfig, RuleName
from relay.settings import ANYTIME, RESTART, LogConfig, Table

_PRIVATE_KINDS = frozenset(
    {
        event_kinds.DIRECT_MESSAGE,
        event_kinds.SEAL,
        event_kinds.CHAT_MESSAGE,
        event_kinds.FILE_MESSAGE,
        event_kinds.GIFT_WRAP,
    }
)
_EXAMPLE_KEY = "npub10elfcs4fr0l0r8af98jlmgdh9c8tcxjvz9qkw038js35mp4dma8qzvjptg"


def _public_key(text: str) -> str:
    """Accept npub1… or hex; return hex."""
    return public_key(text)


_NAMED_KEY = re.compile(r"([a-z0-9._-]+)=(\S+)").fullmatch


def _named_key(text: str) -> str:
    """Accept `name=npub1…` or `name=hex`; return `name=hex`."""
    found = _NAMED_KEY(text)
    if found is None:
        raise ValueError("expected a name of a-z, 0-9, '-', '_' and '.', then '=' and its key")
    return f"{found[1]}={public_key(found[2])}"


def _different_names(entries: tuple[str, ...]) -> tuple[str, ...]:
    names = [entry.partition("=")[0] for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"expected one key for each name; {name!r} has several")
    return entries


def _network(text: str) -> str:
    """Accept an address or a network in CIDR."""
    try:
        return str(ip_network(text.strip()))
    except ValueError as error:
        raise ValueError(f"expected an address or a network such as 10.0.0.0/8: {error}") from None


PublicKeySetting = Annotated[str, AfterValidator(_public_key)]
NamedKeySetting = Annotated[str, AfterValidator(_named_key)]
NetworkSetting = Annotated[str, AfterValidator(_network)]


_HOST_NAME = re.compile(r"[a-z0-9._-]{1,253}|[0-9a-f:.]{2,45}").fullmatch


def _host_name(text: str) -> str:
    """Accept the name of a host, or an address, without port and path; return it in lower case."""
    name = text.strip().lower().strip("[]").rstrip(".")
    if not _HOST_NAME(name):
        raise ValueError("expected a host name such as 'relay.example.com', without port and path")
    return name


HostName = Annotated[str, AfterValidator(_host_name)]


class LimitsConfig(Table):
    """[relay.limits]: what one client may ask of the relay."""

    max_message_bytes: int = Field(
        262_144, ge=1024, le=64 * 2**20, description="The longest message a client may send, in bytes."
    )
    max_subscriptions: int = Field(64, ge=1, description="Open subscriptions per connection.")
    max_filters: int = Field(20, ge=1, description="Filters in one REQ or COUNT.")
    max_filter_values: int = Field(
        5_000, ge=1, description="Ids, authors, kinds and tag values in one filter, all together."
    )
    max_limit: int = Field(500, ge=1, description="Stored events sent per filter, whatever it asks for.")
    max_event_tags: int = Field(5_000, ge=1, description="Tags of one event.")
    max_content_chars: int = Field(
        131_072, ge=1, description="The longest content of an event, in Unicode characters."
    )
    max_seconds_in_future: int = Field(
        900, ge=0, description="How far an event's created_at may lie in the future, in seconds."
    )
    max_age_seconds: int | None = Field(
        None,
        ge=1,
        examples=[94_608_000],
        description="How old an event may be when it arrives, in seconds; unset: any age.",
    )
    min_pow_difficulty: int = Field(
        0,
        ge=0,
        le=64,
        description="Proof of work that every event has to carry, in leading zero bits of its id; 0: none.",
    )
    events_per_minute: int = Field(
        600, ge=0, description="EVENT messages per minute from one address, over all workers; 0: no limit."
    )
    wraps_per_minute: int = Field(
        300,
        ge=0,
        description="Gift wraps (private messages) per minute from one authenticated key, "
        "or from one address that proved none; 0: no limit.",
    )
    requests_per_minute: int = Field(
        3_000, ge=0, description="REQ and COUNT messages per minute from one address; 0: no limit."
    )
    others_per_minute: int = Field(
        600,
        ge=0,
        description="AUTH messages and malformed ones per minute from one address; who sends more malformed "
        "ones is disconnected. 0: no limit.",
    )
    connections_per_address: int = Field(
        256, ge=0, description="Open connections from one address, over all workers; 0: no limit."
    )
    http_connections_per_address: int = Field(
        64,
        ge=0,
        description="Of these, and beside them, connections from one address to one worker that are no "
        "WebSockets, or none yet; those of trusted_proxies are not counted. 0: no limit.",
    )
    max_negentropy_sessions: int = Field(
        16, ge=1, description="Open Negentropy sessions (NIP-77) per connection."
    )
    max_negentropy_events: int = Field(
        1_000_000,
        ge=1,
        description="Events that one Negentropy session may compare; all sessions of a worker hold twice "
        "as many at most, 45 bytes each.",
    )
    max_outbox_bytes: int = Field(
        4 * 2**20, ge=65_536, description="Unsent bytes held for one slow client, in bytes."
    )
    max_pending_events: int = Field(
        1_024, ge=1, description="Events of one connection that await their OK before it is read on."
    )


Kind = Annotated[int, Field(ge=0, le=MAX_KIND)]


class AuthConfig(Table):
    """[relay.auth]: what clients have to prove a key for (NIP-42), whichever key it is."""

    read: bool = Field(False, description="Reading and counting takes a proved key.")
    write: bool = Field(
        False,
        description="Publishing takes a proved key. Relay lists (kinds 10002, 10050) and requests to vanish "
        "(62) are taken from anybody.",
    )
    read_kinds: tuple[Kind, ...] = Field(
        (), description="Kinds that are shown only to who proved a key, such as 30382."
    )
    write_kinds: tuple[Kind, ...] = Field(
        (),
        description="Kinds that are taken only from who proved a key, such as 1059 (private messages).",
    )


def _searchable(kinds: tuple[int, ...]) -> tuple[int, ...]:
    """Refuse what nobody, or hardly anybody, may see, and what is not kept."""
    for kind in kinds:
        if kind in _PRIVATE_KINDS or retention(kind) is Retention.EPHEMERAL:
            raise ValueError(f"expected kinds that are kept and are for everybody; {kind} is not")
    if not kinds:
        raise ValueError("expected at least one kind; enabled = false switches search off")
    return kinds


class SearchConfig(Table):
    """[relay.search]: finding events by their words (NIP-50)."""

    enabled: bool = Field(
        True,
        description="Keep an index of words beside the database, about 1 kB for each event that is searched. "
        "It is made anew where it is missing.",
    )
    kinds: Annotated[tuple[Kind, ...], AfterValidator(_searchable)] = Field(
        # Profiles; notes, threads, comments and chat; pictures and videos; channels; polls; issues;
        # highlights; articles, classifieds, repositories, wiki; calendars; communities; groups.
        (
            *(0, 1, 9, 11, 20, 21, 22, 40, 41, 42, 1068, 1111, 1621, 9802),
            *(30_023, 30_402, 30_617, 30_818, 31_922, 31_923, 34_550, 39_000),
        ),
        description="Kinds that are searched.",
    )


class GroupsConfig(Table):
    """[relay.groups]: groups that the relay keeps (NIP-29)."""

    enabled: bool = Field(True, description="Keep groups. Without it, their events are like all others.")
    anybody_creates: bool = Field(
        True, description="Whoever has a key may create groups; otherwise only the relay's admins."
    )
    created_per_minute: int = Field(
        2, ge=0, description="New groups per minute from one address, over all workers; 0: no limit."
    )
    max_created: int = Field(20, ge=1, description="Groups that one key may have created and not deleted.")
    max_members: int = Field(10_000, ge=1, description="Members of one group.")
    max_age_seconds: int = Field(
        7_200,
        ge=60,
        description="How old an event for a group may be when it arrives, in seconds: later ones would "
        "appear in a past that others have read. Imports may be older.",
    )


class MembersConfig(Table):
    """[relay.members]: a list of the relay's members (NIP-43), whom admins and invites add."""

    enabled: bool = Field(False, description="Keep a list of members, with roles. Everybody may see it.")
    write: bool = Field(False, description="Publishing is for members and admins only.")
    inviting_roles: tuple[str, ...] = Field(
        (),
        examples=[["greeter"]],
        description="Roles whose holders are given an invite when they ask for one, as admins are; "
        '"*" stands for every member.',
    )
    invite_uses: int = Field(1, ge=1, le=1_000_000, description="How many may join by one invite.")
    invite_seconds: int = Field(604_800, ge=60, description="How long an invite can be used, in seconds.")
    max_members: int = Field(10_000, ge=1, le=100_000, description="Members of the relay.")


class ModerationConfig(Table):
    """[relay.moderation]: who, beside admins, bans and allows keys and events (NIP-86)."""

    keys: tuple[PublicKeySetting, ...] = Field(
        (),
        description="Keys (npub or hex) of moderators. Their reports (NIP-56), as admins', wait to be "
        "looked at; those of others are kept, no more.",
    )
    roles: tuple[str, ...] = Field(
        (), examples=[["moderator"]], description="Roles of members (NIP-43) whose holders moderate."
    )


class PollsConfig(Table):
    """[relay.polls]: counting polls (NIP-88)."""

    late_seconds: int = Field(
        300,
        ge=10,
        description="How old a vote may be when it arrives, in seconds; a poll's result is signed so long "
        "after its end. Imports may be older.",
    )
    deletable_votes: bool = Field(
        False, description="Whether voters may delete their votes; a request to vanish always takes them."
    )


def _relay_url(text: str) -> str:
    """Accept a ws:// or wss:// URL; return it in its normal form."""
    url = normalize(text)
    if url is None:
        raise ValueError("expected a URL such as 'wss://relay.example.com'")
    return url


def _filter_text(text: str) -> str:
    """Accept a filter as it stands in a REQ."""
    try:
        wanted = parse_filter(orjson.loads(text))
    except orjson.JSONDecodeError:
        raise ValueError("expected a filter in JSON, such as '{\"kinds\":[0,3]}'") from None
    except InvalidFilter as error:
        raise ValueError(f"expected a filter: {error.refusal.text}") from None
    if wanted.search is not None or wanted.limit is not None:
        raise ValueError("expected a filter without search and limit")
    return text


RelayUrl = Annotated[str, AfterValidator(_relay_url)]
FilterText = Annotated[str, AfterValidator(_filter_text)]
StreamName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]


class StreamConfig(Table):
    """[relay.router.NAME]: a stream of events to or from other relays, or both ways; there may be several."""

    urls: tuple[RelayUrl, ...] = Field(
        min_length=1,
        max_length=100,
        examples=[["wss://relay.example.com"]],
        description="The other relays.",
    )
    direction: Literal["up", "down", "both"] = Field(
        "down",
        description="up: what comes here is sent there; down: what comes there is fetched; both: both.",
    )
    filters: tuple[FilterText, ...] = Field(
        (),
        examples=[['{"kinds":[0,3,10002]}']],
        description="Only events that meet one of these filters (JSON, as in a REQ); empty: all. What is "
        "private or protected never leaves, whatever is said here.",
    )
    key: Path | None = Field(
        None,
        examples=["friend.key"],
        description="A file with the secret key (hex or nsec1…, mode 0600) to authenticate with, where the "
        "others ask for one (NIP-42).",
    )
    trusted: bool = Field(
        False,
        description="Whether what the others send has passed rules like ours: windows of time, proof of "
        "work, lists of members and plugins do not hold it up. For relays of your own.",
    )
    events_per_minute: int = Field(
        60_000, ge=1, description="How many live events are taken from each of the others; the rest waits."
    )
    compare_seconds: int = Field(
        3_600,
        ge=10,
        description="How often everything is compared, for events that come late. With relays that have no "
        "NIP-77, after the first time, only what is dated within a day.",
    )
    overlap_seconds: int = Field(
        900,
        ge=0,
        description="How long before the connection was lost the comparison begins that follows an outage.",
    )


class TimeoutsConfig(Table):
    """[relay.timeouts]: how long the relay waits, in seconds."""

    handshake_seconds: float = Field(10, gt=0, description="To finish the HTTP request.")
    message_seconds: float = Field(60, gt=0, description="For a message that has begun to arrive whole.")
    ping_seconds: float = Field(30, gt=0, description="Between pings; a client that misses one is cut.")
    idle_seconds: float = Field(
        600, gt=0, description="A connection without subscriptions that says nothing for so long is closed."
    )
    negentropy_seconds: float = Field(
        60, gt=0, description="A Negentropy session that hears nothing for so long is closed."
    )
    stalled_seconds: float = Field(
        10, gt=0, description="A socket that takes nothing of what is due to it for so long is cut."
    )
    drain_seconds: float = Field(10, gt=0, description="On SIGTERM: to finish what was begun.")
    restart_seconds: float = Field(
        5,
        ge=0,
        le=3_600,
        description="On `torv relay restart`: over how long clients are told to connect anew, so that they "
        "do not all come at once; 0: at once.",
    )


class TlsConfig(Table):
    """[relay.tls]: TLS without a proxy. New files are in use within seconds, and nobody is disconnected."""

    certificate: Path = Field(
        description="The certificate with its chain, in PEM.",
        examples=["/etc/letsencrypt/live/relay.example.com/fullchain.pem"],
    )
    key: Path = Field(
        description="Its key, in PEM without a password; only its owner may read the file.",
        examples=["/etc/letsencrypt/live/relay.example.com/privkey.pem"],
    )


class RelayConfig(Table):
    """[relay]: the Nostr relay."""

    name: str = Field("Torv", max_length=30, description="The relay's name, as clients show it.")
    description: str = Field(
        "A public square that nobody owns.", description="One or two sentences for readers."
    )
    contact: str = Field("", description="How to reach the operator: a URI such as mailto:you@example.com.")
    icon: str = Field("", description="URL of a square picture.")
    banner: str = Field("", description="URL of a wide picture.")
    terms_of_service: str = Field("", description="URL of the terms of service.")
    pubkey: PublicKeySetting | None = Field(
        None,
        examples=[_EXAMPLE_KEY],
        description="The operator's key (npub or hex), published so that users can write to it; unset: none.",
    )
    admins: tuple[PublicKeySetting, ...] = Field(
        (), description="Keys (npub or hex) that may administer the relay."
    )
    url: str = Field(
        "",
        description="The public URL, such as wss://relay.example.com; AUTH compares with it. "
        "Empty: taken from each request's Host header.",
        examples=["wss://relay.example.com"],
        pattern=r"^(wss?://[^/\s]+(/\S*)?)?$",
    )
    announce: bool = Field(
        False,
        description="Announce the relay by an event of its own key (NIP-66, kind 30166), so that clients and "
        "directories find it; it needs url.",
    )
    names: Annotated[tuple[NamedKeySetting, ...], AfterValidator(_different_names)] = Field(
        (),
        description="Names that the relay vouches for at /.well-known/nostr.json (NIP-05), such as "
        '"alice=npub1…"; "_" stands for the domain itself.',
    )
    host: str = Field(
        "127.0.0.1",
        description="The address to listen on; 0.0.0.0 for all of IPv4.",
        json_schema_extra=RESTART,
    )
    port: int = Field(
        7777, ge=0, le=65535, description="The port to listen on; 0: a free one.", json_schema_extra=RESTART
    )
    trusted_proxies: tuple[NetworkSetting, ...] = Field(
        (),
        examples=[["127.0.0.1", "::1"]],
        description="Addresses and networks of proxies in front of the relay, whose word on who their client "
        "is counts. Headers of anybody else are ignored.",
    )
    proxy_header: Literal["x-forwarded-for", "forwarded", "x-real-ip"] = Field(
        "x-forwarded-for",
        description="Where these proxies name their client, beside X-Forwarded-Proto and -Host: "
        "x-forwarded-for and forwarded (RFC 7239) are read from the right, up to the first who is no trusted "
        "proxy; x-real-ip holds one address.",
    )
    compression: bool = Field(
        False,
        description="Whether messages are compressed for clients that can read that (permessage-deflate): a "
        "third less to send, for 10 to 15 µs of processor time with each stored event that is sent.",
    )
    path: str = Field(
        "/", pattern=r"^/\S*$", description="The path of the relay's endpoint.", json_schema_extra=RESTART
    )
    hosts: tuple[HostName, ...] = Field(
        (),
        examples=[["relay.example.com"]],
        description="Names by which clients reach this relay, where several are served: requests for names "
        "that no relay has are answered with 404. Empty: it answers to all names that no other relay has.",
        json_schema_extra=RESTART,
    )
    hyperloglog: bool = Field(
        True,
        description="Whether counts of reactions, replies, followers and the like carry registers of their "
        "authors, so that clients can merge the counts of several relays.",
    )
    workers: int = Field(
        0, ge=0, le=256, description="Worker processes; 0: one per core.", json_schema_extra=RESTART
    )
    log_slow_queries_ms: int = Field(
        0,
        ge=0,
        description="Questions that take so many milliseconds or longer are logged: what their filters look "
        "like, never what they ask for. 0: none.",
    )
    metrics: Literal["public", "off"] = Field(
        "public", description="Whether /metrics is on the relay's own address; `metrics_listen` is another."
    )
    metrics_listen: str = Field(
        "",
        examples=["127.0.0.1:9777"],
        pattern=r"^((\[[0-9a-fA-F:]+\]|[^:/\s]+):\d{1,5})?$",
        description="Address and port where /metrics is served too, and nothing else; empty: nowhere.",
        json_schema_extra=RESTART,
    )
    trust_bridge_keys: tuple[PublicKeySetting, ...] = Field(
        (), description="Keys that, once authenticated, are exempt from per-address limits and proof of work."
    )
    limits: LimitsConfig = LimitsConfig()
    auth: AuthConfig = AuthConfig()
    search: SearchConfig = SearchConfig()
    groups: GroupsConfig = GroupsConfig()
    members: MembersConfig = MembersConfig()
    moderation: ModerationConfig = ModerationConfig()
    polls: PollsConfig = PollsConfig()
    policies: PoliciesConfig = PoliciesConfig()
    plugins: PluginsConfig = PluginsConfig()
    router: dict[StreamName, StreamConfig] = Field({}, examples=["friends"], json_schema_extra=ANYTIME)
    retention: dict[RuleName, RetentionConfig] = Field({}, examples=["notes"], json_schema_extra=ANYTIME)
    retention_every_seconds: int = Field(
        600, ge=1, description="How often the rules of [relay.retention.NAME] are carried out, in seconds."
    )
    timeouts: TimeoutsConfig = TimeoutsConfig()
    tls: TlsConfig | None = Field(None, json_schema_extra=RESTART)

    @field_validator("announce")
    @classmethod
    def _announce_needs_a_url(cls, announce: bool, info: ValidationInfo) -> bool:
        if announce and info.data.get("url") == "":
            raise ValueError("expected false as long as url is empty")
        return announce


ITS_OWN = frozenset({"hosts", "url", "announce", "names", "metrics_listen", "router"})
"""Settings that further relays do not take over from [relay]: what one of them is called is not another."""
OF_ALL = frozenset({"host", "port", "workers", "trusted_proxies", "proxy_header", "tls"})
"""Settings of the sockets, which all relays share."""


class FurtherRelayConfig(RelayConfig):
    """[relays.NAME]: one more relay on the same sockets, with its own data; what is unset is as in [relay].

    It is recognized by `hosts`, by `path`, or by both.
    """

    hosts: tuple[HostName, ...] = Field(
        (),
        examples=[["home.example.com"]],
        description="Names by which clients reach this relay.",
        json_schema_extra=RESTART,
    )
    data: Path | None = Field(
        None,
        examples=["data/relays/home"],
        description="The folder of its databases and its key; unset: relays/NAME in the data folder.",
        json_schema_extra=RESTART,
    )

    @field_validator(*OF_ALL, mode="before")
    @classmethod
    def _is_of_all(cls, value: object, info: ValidationInfo) -> object:
        if info.field_name is not None and value != cls.model_fields[info.field_name].default:
            raise ValueError("expected nothing: all relays share what [relay] says")
        return value


Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
FurtherRelays = dict[Name, FurtherRelayConfig]


def inherited(shared: Mapping[str, object], own: Mapping[str, object]) -> dict[str, object]:
    """Return the values of a further relay, as they were given: its own, else those of [relay]."""
    taken_over = {name: value for name, value in shared.items() if name not in ITS_OWN | OF_ALL}
    return _merged(taken_over, own)


def _merged(below: Mapping[str, object], above: Mapping[str, object]) -> dict[str, object]:
    merged = dict(below)
    for name, value in above.items():
        under = merged.get(name)
        is_table = isinstance(value, dict) and isinstance(under, dict)
        merged[name] = _merged(under, value) if is_table else value  # type: ignore[arg-type]
    return merged


@dataclass(frozen=True, slots=True)
class Site:
    """One relay of those that the processes serve together."""

    name: str
    """Of [relays.NAME]; empty for [relay]."""
    data: Path
    """Its folder, where nothing of another relay is."""
    relay: RelayConfig

    def titled(self, process: str) -> str:
        """Return how a process of this relay is called."""
        return f"{process} {self.name}" if self.name else process


def sites_of(data: Path, relay: RelayConfig, further: Mapping[str, FurtherRelayConfig]) -> tuple[Site, ...]:
    """Return all relays of a configuration, that of [relay] first."""
    shared = {name: getattr(relay, name) for name in OF_ALL}
    return (
        Site("", data, relay),
        *(
            Site(name, one.data or data / "relays" / name, one.model_copy(update=shared))
            for name, one in sorted(further.items())
        ),
    )


@dataclass(frozen=True, slots=True)
class RelaysConfig:
    """What all processes of the relays go by; replaced as a whole when the configuration is read again."""

    version: int
    """Grows by one each time."""
    sites: tuple[Site, ...]
    log: LogConfig
