"""Putting a backup into a relay's folder: all of it, or nothing.

The files are first written into a folder of their own inside it, checked there, and then that folder gets
another name: this is the moment from which the restore counts. What follows, moving what was there
aside and the files into their places, is done by whoever opens the folder next, should we be killed.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from relay.transfer.manifest import BadBackup, Manifest, restored_name, settle_folder, unpack

_STAGED = "restoring"
"""Being written: worth nothing yet."""
_READY = "restored"
"""Whole: what was there is being moved aside."""
_PLACING = "restored.placing"
"""Nothing older is left: the files are being moved into their places."""
_REPLACED = "replaced-"

STAYING = frozenset({"torv.lock", "torv.sqlite3.lock", "lost+found", "relays"})
"""Of no relay, of every one, or of others: what an empty folder may hold."""
SECRETS = frozenset({"relay.key", "bridge.seed"})
"""Stay where they are if the backup has none."""


def contents(data: Path) -> list[str]:
    """Return the names of what a restore into this folder would replace."""
    return sorted(
        path.name
        for path in data.iterdir()
        if path.name not in STAYING and path.name != _STAGED and not path.name.startswith(_REPLACED)
    )


def restore(
    backup: Path,
    manifest: Manifest,
    data: Path,
    *,
    check: Callable[[Path], None],
    on_advance: Callable[[int], None],
) -> Path | None:
    """Put the backup's files into `data`; return the folder with what was there before, None if nothing was.

    The folder must be locked. `check` is given the folder in which the restored files lie before they
    count; what it raises leaves `data` as it was. Raises BadBackup, OSError.
    """
    staged = data / _STAGED
    shutil.rmtree(staged, ignore_errors=True)  # of one that was killed
    staged.mkdir(mode=0o700)
    try:
        for name in manifest.files:
            target = restored_name(name)
            if target in STAYING or (staged / target).exists():
                raise BadBackup(f"the manifest's entry {name!r} is no file of a backup")
            unpack(backup, name, manifest, staged / target, on_advance)
        check(staged)
        settle_folder(staged)
        os.rename(staged, data / _READY)
        settle_folder(data)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    return finish(data)


def finish(data: Path) -> Path | None:
    """Complete a restore that counts; does nothing where there is none. The folder must be locked.

    Returns the folder with what was there before, if anything was.
    """
    ready, placing = data / _READY, data / _PLACING
    aside: Path | None = None
    if ready.exists():
        aside = _move_aside(data, ready)
        os.rename(ready, placing)
        settle_folder(data)
    if placing.exists():
        for path in sorted(placing.iterdir()):
            os.rename(path, data / path.name)
        placing.rmdir()
        settle_folder(data)
    return aside


def _move_aside(data: Path, ready: Path) -> Path | None:
    staying = SECRETS - {path.name for path in ready.iterdir()} | {_READY}
    old = [name for name in contents(data) if name not in staying]
    # The same folder, should this be done a second time.
    aside = data / f"{_REPLACED}{int(ready.stat().st_mtime)}"
    if old:
        aside.mkdir(mode=0o700, exist_ok=True)
        for name in old:
            os.rename(data / name, aside / name)
        settle_folder(aside)
    return aside if aside.exists() else None
