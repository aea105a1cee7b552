"""NIP-11: the relay information document, derived from what is switched on."""

from collections.abc import Sequence

import orjson

from relay import __version__
from relay.config import RelayConfig
from relay.engine.feature import Context, Feature, HttpRequest, HttpResponse, Route

MEDIA_TYPE = "application/nostr+json"

# "Relays MUST accept CORS requests by sending Access-Control-Allow-Origin,
# Access-Control-Allow-Headers, and Access-Control-Allow-Methods headers."
CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Headers": "*",
    "Access-Control-Allow-Methods": "GET, OPTIONS",
}


def document(config: RelayConfig, context: Context, features: Sequence[Feature]) -> dict[str, object]:
    """Return the document; empty settings are left out."""
    texts = {
        "name": config.name,
        "description": config.description,
        "banner": config.banner,
        "icon": config.icon,
        "pubkey": config.pubkey,
        "contact": config.contact,
        "terms_of_service": config.terms_of_service,
    }
    return {
        **{name: text for name, text in texts.items() if text},
        "self": context.key.public,
        "supported_nips": supported_nips(features),
        "version": __version__,
        "limitation": limitation(features),
        **{name: value for feature_ in features for name, value in feature_.information.items()},
    }


def limitation(features: Sequence[Feature]) -> dict[str, int | bool]:
    """Return what bounds clients, by field of the document's `limitation`, in order."""
    limits: dict[str, int | bool] = {"payment_required": False, "restricted_writes": False}
    for feature_ in features:
        limits.update(feature_.limitation)
    return dict(sorted(limits.items()))


def supported_nips(features: Sequence[Feature]) -> list[int]:
    """Return the numbers of the enabled NIPs, ascending."""
    return sorted({feature.nip for feature in features if feature.nip is not None})


def feature(config: RelayConfig, context: Context, others: Sequence[Feature]) -> Feature:
    describing = tuple(other.describes for other in others if other.describes is not None)

    def answer(request: HttpRequest) -> HttpResponse:
        texts = {name: text for describe in describing for name, text in describe().items()}
        body = fixed
        if texts:
            shown = {**told, **texts}
            body = orjson.dumps({name: value for name, value in shown.items() if value != ""})
        return HttpResponse(body, MEDIA_TYPE, headers=CORS)

    this = Feature(
        title="Relay information document",
        nip=11,
        routes=(Route(path=config.path, accept=MEDIA_TYPE, handler=answer),),
    )
    told = document(config, context, (*others, this))
    fixed = orjson.dumps(told)
    return this
