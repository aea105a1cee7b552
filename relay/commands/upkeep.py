"""`torv relay stats`, `compact` and `migrate`: the database as such."""

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from relay.assembly import DATABASE, SEARCH_INDEX
from relay.commands.opening import data_option, load_for
from relay.commands.results import Failed, ends_with, json_option, print_result
from relay.net.workers import CannotStart
from relay.settings import config_option
from relay.store.api import StoreError
from relay.transfer.progress import steps

if TYPE_CHECKING:
    from relay.store.sqlite.sizes import Sizes

_DAY = 86_400


@ends_with("all was counted", "the database could not be read")
@click.command("stats")
@config_option
@data_option
@click.option("--top", type=click.IntRange(0, 1_000), default=10, help="How many authors are listed.")
@json_option
@click.pass_context
def stats(context: click.Context, config: Path | None, data: Path | None, top: int, as_json: bool) -> None:
    """Count the events by kind, age and author, and say how large the files are.

    The relay may be running. Of more than 20,000 events, the authors are those who wrote most of a sample;
    how much they wrote is exact.
    """
    from relay.store.sqlite.sizes import measure

    folder = load_for(context, config, data).data
    try:
        with steps() as shown:
            sizes = measure(
                folder / DATABASE,
                now=int(time.time()),
                most_authors=top,
                on_progress=lambda events: shown.show("counting", events, None),
            )
    except StoreError as error:
        raise Failed(str(error)) from error
    files = {
        name: _bytes_of(folder / name)
        for name in (DATABASE, f"{DATABASE}-wal", SEARCH_INDEX, f"{SEARCH_INDEX}-wal")
    }
    result = {
        "events": sizes.events,
        "kinds": dict(sizes.kinds.most_common()),
        "younger_than_days": {age // _DAY: count for age, count in sizes.younger.items()},
        "older": sizes.older,
        "oldest": sizes.oldest,
        "newest": sizes.newest,
        "authors": [{"pubkey": key, "events": count} for key, count in sizes.authors],
        "authors_of_a_sample": sizes.is_sample,
        "files": files,
        "unused_bytes": sizes.unused_bytes,
        "can_shrink": sizes.can_shrink,
        "removed_and_indexed": sizes.removed,
        "deletions": sizes.deletions,
    }
    print_result(as_json, result, _lines(sizes, files))


def _bytes_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _lines(sizes: "Sizes", files: dict[str, int]) -> Iterator[str]:
    yield f"{sizes.events:,} events"
    for kind, count in sizes.kinds.most_common(20):
        yield f"  kind {kind:<8} {count:>14,}"
    if len(sizes.kinds) > 20:
        yield f"  {len(sizes.kinds) - 20} further kinds"
    yield "by age"
    for age, count in sizes.younger.items():
        yield f"  under {age // _DAY:>4} days {count:>12,}"
    yield f"  older           {sizes.older:>12,}"
    if sizes.authors:
        yield "by author" + (", of those who wrote most of a sample" if sizes.is_sample else "")
        for key, count in sizes.authors:
            yield f"  {key} {count:>12,}"
    yield "files"
    for name, size in files.items():
        yield f"  {name:<26} {size / 2**20:>12,.1f} MiB"
    unused = f"  of the database unused     {sizes.unused_bytes / 2**20:>12,.1f} MiB"
    yield unused + ("" if sizes.can_shrink else "; `torv relay compact` makes it able to shrink")
    yield f"  removed, and still indexed {sizes.removed:>12,}"
    yield f"  deletions noted            {sizes.deletions:>12,}"


@ends_with("the files are compact", "the files are as they were")
@click.command("compact")
@config_option
@data_option
@json_option
@click.pass_context
def compact(context: click.Context, config: Path | None, data: Path | None, as_json: bool) -> None:
    """Make the database's file anew, without unused room; the relay must be stopped.

    Databases made by this version shrink by themselves while the relay serves; older ones do after this. It
    takes as much room again, for as long as it takes.
    """
    from relay import app
    from relay.store.sqlite import compacting

    folder = load_for(context, config, data).data
    changed: dict[str, tuple[int, int]] = {}
    try:
        if not (folder / DATABASE).exists():
            raise CannotStart(f"there is no database in the folder {folder}")
        with app.locked(folder):
            for name in (DATABASE, SEARCH_INDEX):
                if (folder / name).exists():
                    changed[name] = compacting.compact(folder / name)
    except (StoreError, CannotStart) as error:
        raise Failed(str(error)) from error
    result = {name: {"before": before, "after": after} for name, (before, after) in changed.items()}
    lines = [
        f"{name}: {before / 2**20:,.1f} MiB, now {after / 2**20:,.1f} MiB"
        for name, (before, after) in changed.items()
    ]
    print_result(as_json, {"files": result}, lines)


@ends_with("the database is up to date", "it is not, or could not be brought there")
@click.command("migrate")
@config_option
@data_option
@click.option("--check", is_flag=True, help="Only say what is missing.")
@json_option
@click.pass_context
def migrate(
    context: click.Context, config: Path | None, data: Path | None, check: bool, as_json: bool
) -> None:
    """Bring the database of an older version up to date, after a copy of it beside it.

    The relay does this by itself when it starts; a large database takes long enough to do it before.
    """
    from relay import app
    from relay.store.sqlite.schema import MIGRATIONS, check_is_ours, connect, open_for_writing

    folder = load_for(context, config, data).data
    database = folder / DATABASE
    try:
        if not database.exists():
            raise CannotStart(f"there is no database in the folder {folder}")
        with closing(connect(database, cache_mib=1)) as connection:
            applied = check_is_ours(connection, database)
        missing = sorted(set(MIGRATIONS) - applied)
        before = set(folder.glob(f"{DATABASE}.version-*"))
        if missing and not check:
            with app.locked(folder):
                open_for_writing(database, cache_mib=64).close()
    except (StoreError, CannotStart) as error:
        raise Failed(str(error)) from error
    is_done = not missing or not check
    copies = sorted(str(path) for path in set(folder.glob(f"{DATABASE}.version-*")) - before)
    result = {"missing": missing if check else [], "applied": [] if check else missing, "copies": copies}
    if not missing:
        lines = ["the database is up to date"]
    elif check:
        lines = [f"missing: {', '.join(missing)}"]
    else:
        lines = [f"applied: {', '.join(missing)}", *(f"before that, it is in {copy}" for copy in copies)]
    print_result(as_json, result, lines)
    context.exit(0 if is_done else 1)
