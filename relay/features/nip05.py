"""NIP-05: the relay vouches for its people's names, at `/.well-known/nostr.json`."""

from collections.abc import Mapping

import orjson

from relay.config import RelayConfig
from relay.engine.feature import Context, Feature, HttpRequest, HttpResponse, Route

PATH = "/.well-known/nostr.json"

# "Users should ensure that their /.well-known/nostr.json is served with the HTTP header
# Access-Control-Allow-Origin: *".
_HEADERS = {"Access-Control-Allow-Origin": "*"}


def named(keys: Mapping[str, str], name: str | None) -> Mapping[str, str]:
    """Return the keys of this name, or of all names where none is asked for."""
    if name is None:
        return keys
    key = keys.get(name.lower())
    return {} if key is None else {name.lower(): key}


def feature(config: RelayConfig, context: Context) -> Feature:
    keys = {name: key for name, _, key in (entry.partition("=") for entry in config.names)}

    def answer(request: HttpRequest) -> HttpResponse:
        found = named(keys, request.query.get("name"))
        # "… SHOULD also serve the relays data for any name they serve in the same reply".
        body = {"names": found, "relays": {key: [request.url] for key in found.values()}}
        return HttpResponse(orjson.dumps(body), "application/json", headers=_HEADERS)

    return Feature(
        title="Names of keys",
        # A relay without names serves none.
        nip=5 if keys else None,
        routes=(Route(path=PATH, accept=None, handler=answer),) if keys else (),
    )
