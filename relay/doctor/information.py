"""The relay information document (NIP-11), as it came: fetched, and read without trust."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import orjson

from relay.client import Unreachable

MEDIA_TYPE = "application/nostr+json"
_MAX_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What came for an HTTP request."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


@dataclass(frozen=True, slots=True)
class Information:
    """The document, and how it was served. What has a wrong type counts as absent here."""

    answer: HttpAnswer
    document: Mapping[str, object]
    """Empty where the body is no JSON object."""

    @property
    def nips(self) -> tuple[int, ...]:
        """The advertised NIPs, ascending."""
        match self.document.get("supported_nips"):
            case [*numbers]:
                return tuple(sorted({number for number in numbers if type(number) is int}))
        return ()

    @property
    def self_key(self) -> str | None:
        """The relay's own public key."""
        key = self.document.get("self")
        return key if type(key) is str else None

    @property
    def limitation(self) -> Mapping[str, object]:
        """The document's `limitation`."""
        limits = self.document.get("limitation")
        return limits if isinstance(limits, dict) else {}

    def limit(self, name: str) -> int | None:
        """Return a number among the limitations; None when absent or none."""
        value = self.limitation.get(name)
        return value if type(value) is int else None

    def says(self, name: str) -> bool:
        """Say whether a flag among the limitations is true."""
        return self.limitation.get(name) is True


def http_of(url: str) -> str:
    """Return the http:// or https:// URL of a relay's ws:// or wss:// URL."""
    parts = urlsplit(url)
    return urlunsplit(({"ws": "http", "wss": "https"}[parts.scheme], *parts[1:4], ""))


async def request(
    url: str,
    *,
    seconds: float,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> HttpAnswer:
    """Make one HTTP request; follows no redirect. Raises Unreachable."""
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=seconds)) as session,
            session.request(method, url, headers=headers, data=body, allow_redirects=False) as answer,
        ):
            text = await answer.content.read(_MAX_BYTES)
            found = {name.lower(): value for name, value in answer.headers.items()}
            return HttpAnswer(answer.status, found, text)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise Unreachable(url, str(error) or type(error).__name__) from error


async def inform(url: str, *, seconds: float) -> Information:
    """Fetch the document of the relay at a ws:// or wss:// URL. Raises Unreachable."""
    answer = await request(http_of(url), seconds=seconds, headers={"Accept": MEDIA_TYPE})
    try:
        value = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        value = None
    return Information(answer, value if isinstance(value, dict) else {})
