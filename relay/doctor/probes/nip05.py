"""NIP-05: the relay's host vouches for names, and for those only that it has."""

from secrets import token_hex
from urllib.parse import urlsplit

import orjson

from relay.doctor.information import HttpAnswer, http_of, request
from relay.doctor.outcome import Failed, Skipped, expect
from relay.doctor.probes.probe import Probe
from relay.doctor.visit import Visit
from relay.nostr.tags import HEX_64

_PATH = "/.well-known/nostr.json"
_MAX_NAMES_TRIED = 5


async def names_are_vouched_for(visit: Visit) -> None:
    parts = urlsplit(http_of(visit.url))
    base = f"{parts.scheme}://{parts.netloc}{_PATH}"
    everybody = await _names(visit, base)
    absent = f"nobody-{token_hex(4)}"
    found = await _names(visit, f"{base}?name={absent}")
    expect(
        absent not in found,
        sent=f"GET {_PATH}?name={absent}",
        expected="no key for a name that nobody has",
        came=f"{found.get(absent)!r} came",
    )
    if not everybody:
        raise Skipped("the host tells names only to who knows them: none could be looked up")
    for name, key in list(everybody.items())[:_MAX_NAMES_TRIED]:
        found = await _names(visit, f"{base}?name={name}")
        expect(
            found.get(name) == key,
            sent=f"GET {_PATH}?name={name}",
            expected=f"the key {key}",
            came=f"{found.get(name)!r} came",
        )


async def _names(visit: Visit, url: str) -> dict[str, str]:
    answer = await request(url, seconds=visit.answer_seconds)
    expect(answer.status == 200, sent=f"GET {url}", expected="status 200", came=f"{answer.status} came")
    # "Users should ensure that their /.well-known/nostr.json is served with the HTTP header …"
    expect(
        answer.headers.get("access-control-allow-origin") == "*",
        sent=f"GET {url}",
        expected="the header Access-Control-Allow-Origin: *",
        came=f"{answer.headers.get('access-control-allow-origin')!r} came",
    )
    return _read(answer, url)


def _read(answer: HttpAnswer, url: str) -> dict[str, str]:
    names: dict[str, str] = {}
    try:
        document = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        document = None
    match document:
        case {"names": dict(found)}:
            for name, key in found.items():
                expect(
                    type(key) is str and bool(HEX_64(key)),
                    sent=f"GET {url}",
                    expected=f"a key of 64 lowercase hex digits for {name!r}",
                    came=f"{key!r} came",
                )
                names[name] = key
            return names
    raise Failed(sent=f"GET {url}", expected='{"names": {…}}', came=f"{answer.body[:80]!r} came")


PROBES = (Probe(5, "the host vouches for names, in the right form", names_are_vouched_for),)
