"""The jobs of features: each by its own clock, in the one process that is to do them."""

import asyncio
from collections.abc import Callable, Iterable

import structlog

from relay.engine.feature import Feature, Job

log = structlog.get_logger(__name__)


async def run_jobs(
    features: Iterable[Feature],
    now: Callable[[], int],
    catch_up: Callable[[], None] = lambda: None,
    *,
    only_everywhere: bool = False,
) -> None:
    """Run all jobs, each at once and then at its times, until cancelled; or only those of every process.

    `catch_up` is called before each: nobody else may be asking this process anything.
    """
    async with asyncio.TaskGroup() as tasks:
        for feature in features:
            for job in feature.jobs:
                if only_everywhere and not job.everywhere:
                    continue
                tasks.create_task(_repeat(job, now, catch_up))


async def _repeat(job: Job, now: Callable[[], int], catch_up: Callable[[], None]) -> None:
    while True:
        try:
            catch_up()
            await job.run(now())
        except Exception:
            log.exception("a job failed; it runs again at its next time", job=job.name)
        await asyncio.sleep(job.every_seconds)


async def close(features: Iterable[Feature]) -> None:
    """Have features that are asked no more let go of what they hold beside memory."""
    for feature in features:
        if feature.close is not None:
            await feature.close()
