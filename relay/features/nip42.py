"""NIP-42: clients prove their keys. Several keys may be proved on one connection, and all count."""

from collections.abc import Iterable
from urllib.parse import urlsplit

from relay.config import RelayConfig
from relay.engine.feature import Context, Conversation, Feature, OfKinds, Origin
from relay.nostr import kinds
from relay.nostr.event import Event, InvalidEvent, check_event
from relay.nostr.messages import Auth, ClientMessage, Ok, RelayMessage
from relay.nostr.reasons import Prefix, Refusal, invalid
from relay.nostr.tags import first_value

# NIP-42: "close (e.g. within ~10 minutes) to the current time".
MAX_CLOCK_SKEW_SECONDS = 600
MAX_KEYS = 64
"""Keys that one connection may prove; veils look at all of them."""

_CREDENTIALS = frozenset({kinds.CLIENT_AUTH, kinds.BLOSSOM_AUTH, kinds.HTTP_AUTH})


def refuse_credentials(event: Event, origin: Origin, now: int) -> Refusal:
    """Refuse to store or pass on what proves a key to one server: others could replay it."""
    return Refusal(Prefix.BLOCKED, f"kind {event.kind} is for one server's eyes, not for publishing")


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
    return Feature(
        title="Authentication of clients to relays",
        nip=42,
        before_signature=(OfKinds(_CREDENTIALS.__contains__, refuse_credentials),),
        handlers={Auth: authenticate},
        limitation={"auth_required": False},
    )
