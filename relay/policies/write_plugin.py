"""A program of the operator's that decides which events are taken; strfry's plugins work as they are."""

from collections.abc import AsyncGenerator, Sequence

from relay.config import RelayConfig
from relay.engine.feature import Context, Feature, OfKinds, Published, Quietly, Ruled
from relay.lists import parse_span
from relay.nostr.reasons import Prefix, Refusal
from relay.plugins.lines import Action, Answer, new_line, refusal_of
from relay.plugins.program import Plugin
from relay.policies.standing import FROM_ANYBODY

_FAILED = Refusal(Prefix.ERROR, "the relay's policy gave no answer; try again later")


def feature(config: RelayConfig, context: Context) -> Feature:
    settings = config.plugins.write
    if not settings.command:
        return Feature(title="Write plugin")
    plugins = [Plugin("write", settings.command, seconds=settings.seconds) for _ in range(settings.processes)]
    on_failure = None if settings.on_failure == "accept" else _FAILED
    spans = tuple(map(parse_span, settings.kinds))

    def is_asked(kind: int) -> bool:
        return kind not in FROM_ANYBODY and (not spans or any(kind in span for span in spans))

    async def judge(published: Sequence[Published], now: int) -> AsyncGenerator[list[Ruled], None]:
        positions: dict[str, int] = {}
        questions: dict[str, bytes] = {}
        ours: list[Ruled] = []
        for position, one in enumerate(published):
            event = one.event
            if one.origin.exempt:
                ours.append((position, None))
                continue
            positions[event.id] = position
            questions[event.id] = new_line(one.json, event.pubkey, one.origin, now)
        if ours:
            yield ours
        if questions:
            least_busy = min(plugins, key=lambda plugin: plugin.load)
            async for settled in least_busy.ask(questions):
                yield [(positions[id_], ruling(answer)) for id_, answer in settled]

    def ruling(answer: Answer | None) -> Refusal | Quietly | None:
        if answer is None:
            return on_failure
        match answer.action:
            case Action.ACCEPT:
                return None
            case Action.REJECT:
                return refusal_of(answer.message)
            case Action.SHADOW_REJECT:
                return Quietly.DROPPED

    async def close() -> None:
        for plugin in plugins:
            await plugin.close()

    return Feature(title="Write plugin", slow_rules=(OfKinds(is_asked, judge),), close=close)
