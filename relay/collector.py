"""Python's garbage collector, in processes that run for long."""

import gc


def settle() -> None:
    """Exempt all that exists now from collection, and collect less often; call it once, after starting.

    Events, frames and postings hold no cycles: at the default thresholds, looking for some took 5 % of
    the workers' and the writer's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def share() -> None:
    """Exempt all that exists now from collection; call it before forking.

    A collection writes to the header of every object it looks at, so that a forked process would soon
    have its own copy of all that it had in common with its parent.
    """
    gc.freeze()
