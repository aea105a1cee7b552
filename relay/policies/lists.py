"""Who and what is taken, by lists in the settings and in files; files are read again when they change.

Beside them stand the lists that admins keep while the relay runs (NIP-86): what either denies is refused.
Whom those allow is a member, and passes the list of keys here.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from relay.config import RelayConfig
from relay.engine.feature import Context, Feature, Job, OfKinds, Origin, Rule
from relay.lists import (
    MAX_SHOWN,
    Networks,
    Span,
    parse_key,
    parse_network,
    parse_phrase,
    parse_span,
    read_list,
)
from relay.nostr.event import Event
from relay.nostr.reasons import Prefix, Refusal
from relay.policies.phrases import Phrases
from relay.policies.standing import ENCRYPTED, FROM_ANYBODY, Known, keys_behind

log = structlog.get_logger(__name__)

LOOK_SECONDS = 2.0
"""Between two looks whether a file has changed."""

Entry = TypeVar("Entry")
Made = TypeVar("Made")


class KeptList(Generic[Entry, Made]):
    """One list: what the settings hold, and what its files hold now."""

    def __init__(
        self,
        name: str,
        inline: Iterable[str],
        files: Sequence[Path],
        parse: Callable[[str], Entry],
        make: Callable[[list[Entry]], Made],
    ) -> None:
        """`make` turns the entries into what is asked. Wrong lines of files are left out, and told."""
        self.name = name
        self.files = tuple(files)
        self._inline = [parse(text) for text in inline]
        self._parse = parse
        self._make = make
        self.is_given = bool(self._inline or files)
        self._seen = self._signatures()
        self.entries, mistakes = self._read()
        self._tell(mistakes)

    async def keep_up(self) -> None:
        """Read the files again if one has changed; one with a mistake, or that is gone, changes nothing."""
        signatures = self._signatures()
        if signatures == self._seen:
            return
        self._seen = signatures
        # Hundreds of thousands of keys take a while.
        entries, mistakes = await asyncio.to_thread(self._read)
        if mistakes:
            self._tell(mistakes)
            log.error("the list stays as it was", list=self.name, mistakes=len(mistakes))
            return
        self.entries = entries
        log.info("a list was read again", list=self.name)

    def _read(self) -> tuple[Made, list[str]]:
        found, mistakes = list(self._inline), []
        for file in self.files:
            try:
                entries, wrong = read_list(file, self._parse)
            except OSError as error:
                mistakes.append(f"{file}: cannot be read: {error.strerror}")
            else:
                found += entries
                mistakes += map(str, wrong)
        return self._make(found), mistakes

    def _tell(self, mistakes: Sequence[str]) -> None:
        for mistake in mistakes[:MAX_SHOWN]:
            log.error("a list has a mistake", list=self.name, mistake=mistake)

    def _signatures(self) -> list[tuple[int, int, int] | None]:
        return [_signature(file) for file in self.files]


def _signature(file: Path) -> tuple[int, int, int] | None:
    """Return what differs when a file has changed; None when it is not there."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def feature(config: RelayConfig, context: Context) -> Feature:
    lists = config.policies.lists
    allowed_keys = KeptList("allow_keys", lists.allow_keys, lists.allow_keys_files, parse_key, frozenset)
    denied_keys = KeptList("deny_keys", lists.deny_keys, lists.deny_keys_files, parse_key, frozenset)
    allowed_kinds = KeptList("allow_kinds", lists.allow_kinds, lists.allow_kinds_files, parse_span, tuple)
    denied_kinds = KeptList("deny_kinds", lists.deny_kinds, lists.deny_kinds_files, parse_span, tuple)
    allowed_addresses = KeptList(
        "allow_addresses", lists.allow_addresses, lists.allow_addresses_files, parse_network, Networks
    )
    denied_addresses = KeptList(
        "deny_addresses", lists.deny_addresses, lists.deny_addresses_files, parse_network, Networks
    )
    denied_words = KeptList("deny_words", lists.deny_words, lists.deny_words_files, parse_phrase, Phrases)
    kept: tuple[KeptList[object, object], ...] = (  # type: ignore[assignment]  # of all sorts
        allowed_keys,
        denied_keys,
        allowed_kinds,
        denied_kinds,
        allowed_addresses,
        denied_addresses,
        denied_words,
    )
    known = Known(config, context)

    def refuse_denied_key(event: Event, origin: Origin, now: int) -> Refusal | None:
        if event.pubkey in denied_keys.entries:
            return Refusal(Prefix.BLOCKED, "this key may not publish here")
        return None

    def refuse_key_not_allowed(event: Event, origin: Origin, now: int) -> Refusal | None:
        if not allowed_keys.entries.isdisjoint(keys_behind(event, origin)) or known.stands_behind(
            event, origin
        ):
            return None
        return Refusal(Prefix.RESTRICTED, "only the keys on the relay's list publish here")

    def refuse_kind(event: Event, origin: Origin, now: int) -> Refusal | None:
        kind = event.kind
        is_allowed = not allowed_kinds.is_given or _holds(allowed_kinds.entries, kind)
        if is_allowed and not _holds(denied_kinds.entries, kind):
            return None
        return Refusal(Prefix.BLOCKED, f"kind {kind} is not taken here")

    def refuse_words(event: Event, origin: Origin, now: int) -> Refusal | None:
        texts = (event.content, *(item for tag in event.tags for item in tag[1:]))
        found = denied_words.entries.found_in(texts)
        return None if found is None else Refusal(Prefix.BLOCKED, f"{found!r} is not welcome here")

    def turns_away(address: str) -> bool:
        return address in denied_addresses.entries or (
            allowed_addresses.is_given and address not in allowed_addresses.entries
        )

    async def keep_up(now: int) -> None:
        for one in kept:
            await one.keep_up()

    rules: list[Rule | OfKinds[Rule]] = []
    if denied_keys.is_given:
        rules.append(refuse_denied_key)
    if allowed_kinds.is_given or denied_kinds.is_given:
        rules.append(OfKinds(_of_free_choice, refuse_kind))
    if allowed_keys.is_given:
        rules.append(OfKinds(_of_free_choice, refuse_key_not_allowed))
    if denied_words.is_given:
        rules.append(OfKinds(_is_readable, refuse_words))
    is_address_asked = allowed_addresses.is_given or denied_addresses.is_given
    return Feature(
        title="Lists of keys, kinds, addresses and words",
        before_signature=tuple(rules),
        turns_away=turns_away if is_address_asked else None,
        jobs=(Job("keep up with lists", LOOK_SECONDS, keep_up, everywhere=True),)
        if any(one.files for one in kept)
        else (),
        limitation={"restricted_writes": True} if allowed_keys.is_given or allowed_kinds.is_given else {},
    )


def _holds(spans: tuple[Span, ...], kind: int) -> bool:
    return any(kind in span for span in spans)


def _of_free_choice(kind: int) -> bool:
    return kind not in FROM_ANYBODY


def _is_readable(kind: int) -> bool:
    return kind not in ENCRYPTED
