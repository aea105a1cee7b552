"""Where log lines go and how they look: structlog on top of the standard library's logging.

Both kinds of loggers end in one handler on standard error, so libraries look like the rest. What
is logged never holds an event's content or a secret; that is the callers' duty.
"""

import logging
import sys
from typing import TextIO

import structlog
from structlog.typing import Processor

from relay.settings import LogConfig

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

# These say at INFO what the relay counts in its metrics: a line per request.
_TALKATIVE = ("aiohttp.access", "websockets", "mautrix", "asyncio")


def start_logging(config: LogConfig, stream: TextIO | None = None) -> None:
    """Begin to log as the configuration says, to standard error unless `stream` is given.

    May be called again: the newest call counts.
    """
    stream = sys.stderr if stream is None else stream
    as_json = config.format == "json" or (config.format == "auto" and not stream.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        # Loggers made at import would otherwise keep the first configuration.
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_last(as_json)],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[config.level])
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(_LEVELS[config.level], logging.WARNING))


def _last(as_json: bool) -> list[Processor]:
    if as_json:
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    # The default shows the variables of every function: keys, tokens and what people wrote.
    return [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
