"""URLs of relays, brought into one form so that they can be compared."""

from urllib.parse import urlsplit, urlunsplit

_DEFAULT_PORTS = {"ws": 80, "wss": 443}


def normalize(url: str) -> str | None:
    """Return the relay's URL in its normal form (RFC 3986, section 6); None when it is none.

    Scheme and host in lower case, without the default port, a user or a fragment; an empty path is `/`.
    """
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if parts.scheme not in _DEFAULT_PORTS or not host:
        return None
    shown = f"[{host}]" if ":" in host else host.rstrip(".")
    if not shown:
        return None
    if port is not None and port != _DEFAULT_PORTS[parts.scheme]:
        shown += f":{port}"
    return urlunsplit((parts.scheme, shown, parts.path or "/", parts.query, ""))
