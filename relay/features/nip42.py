"""NIP-42: clients prove their keys. Several keys may be proved on one connection, and all count.

What takes a proved key is the operator's choice; which key it is does not matter here.
"""

from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from relay.config import RelayConfig
from relay.engine.feature import Context, Conversation, Feature, OfKinds, Origin, Rule, VeilRule
from relay.nostr import kinds
from relay.nostr.event import Event, InvalidEvent, check_event
from relay.nostr.filter import Filter
from relay.nostr.messages import Auth, ClientMessage, Ok, RelayMessage
from relay.nostr.reasons import Prefix, Refusal, invalid
from relay.nostr.tags import first_value

# NIP-42: "close (e.g. within ~10 minutes) to the current time".
MAX_CLOCK_SKEW_SECONDS = 600
MAX_KEYS = 64
"""Keys that one connection may prove; veils look at all of them."""

# NIP-65 and NIP-17 need these to be found; NIP-62 must be served whatever else a relay demands.
_FROM_ANYBODY = frozenset({kinds.RELAY_LIST, kinds.INBOX_RELAYS, kinds.VANISH})
_CREDENTIALS = frozenset({kinds.CLIENT_AUTH, kinds.BLOSSOM_AUTH, kinds.HTTP_AUTH})


def refuse_credentials(event: Event, origin: Origin, now: int) -> Refusal:
    """Refuse to store or pass on what proves a key to one server: others could replay it."""
    return Refusal(Prefix.BLOCKED, f"kind {event.kind} is for one server's eyes, not for publishing")


def needing_a_key(is_needed: Callable[[int], bool]) -> OfKinds[Rule]:
    """Return the rule that takes events of some kinds only from who proved a key."""

    def refuse_stranger(event: Event, origin: Origin, now: int) -> Refusal | None:
        # Nobody sends what is imported.
        if origin.authenticated or origin.exempt:
            return None
        return Refusal(Prefix.AUTH_REQUIRED, f"kind {event.kind} is taken only from who proved a key")

    return OfKinds(is_needed, refuse_stranger)


def refuse_strangers_question(wanted: Filter, origin: Origin) -> Filter | Refusal:
    """Refuse to show anything to who proved no key."""
    if origin.authenticated:
        return wanted
    return Refusal(Prefix.AUTH_REQUIRED, "this relay is read only by who proved a key")


def is_no_stranger(event: Event, origin: Origin) -> bool:
    """Say whether the reader proved a key."""
    return bool(origin.authenticated)


def refuse_proof(event: Event, challenge: str, url: str, now: int) -> Refusal | None:
    """Say why the event does not prove its author's key to this relay on this connection, or None."""
    if event.kind != kinds.CLIENT_AUTH:
        return invalid(f"AUTH takes an event of kind {kinds.CLIENT_AUTH}")
    if abs(event.created_at - now) > MAX_CLOCK_SKEW_SECONDS:
        return invalid(f"created_at is more than {MAX_CLOCK_SKEW_SECONDS} seconds off")
    if first_value(event.tags, "challenge") != challenge:
        return invalid("the challenge is not this connection's")
    named = first_value(event.tags, "relay") or ""
    if _host(named) is None or _host(named) != _host(url):
        return invalid(f"the relay tag names another relay than {url}")
    try:
        check_event(event)
    except InvalidEvent as error:
        return error.refusal
    return None


def authenticate(message: ClientMessage, conversation: Conversation, now: int) -> Iterable[RelayMessage]:
    """Answer AUTH with OK; a proved key counts from now on, also for what is already subscribed."""
    if not isinstance(message, Auth):
        raise TypeError(f"not an AUTH message: {type(message).__name__}")
    event = message.event
    proved = conversation.origin.authenticated
    refusal = refuse_proof(event, conversation.challenge, conversation.origin.url, now)
    if refusal is None and len(proved) >= MAX_KEYS and event.pubkey not in proved:
        refusal = Refusal(Prefix.RESTRICTED, f"at most {MAX_KEYS} keys on one connection")
    if refusal is None:
        conversation.authenticate(event.pubkey)
        return [Ok(event.id, True, "")]
    return [Ok(event.id, False, str(refusal))]


def _host(url: str) -> str | None:
    # "For most cases just checking if the domain name is correct should be enough."
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def feature(config: RelayConfig, context: Context) -> Feature:
    auth = config.auth
    rules: list[OfKinds[Rule]] = [OfKinds(_CREDENTIALS.__contains__, refuse_credentials)]
    if auth.write:
        rules.append(needing_a_key(lambda kind: kind not in _FROM_ANYBODY))
    elif auth.write_kinds:
        rules.append(needing_a_key(frozenset(auth.write_kinds).__contains__))
    # "this relay requires NIP-42 authentication to happen before a new connection may perform any other
    # action" (NIP-11)
    limitation = {"auth_required": auth.read and auth.write}
    if auth.write:
        limitation["restricted_writes"] = True
    return Feature(
        title="Authentication of clients to relays",
        nip=42,
        before_signature=tuple(rules),
        gates=(refuse_strangers_question,) if auth.read else (),
        veils=(VeilRule(frozenset(auth.read_kinds), is_no_stranger),) if auth.read_kinds else (),
        handlers={Auth: authenticate},
        limitation=limitation,
    )
