"""What the processes of this relay take of the machine, as Linux says."""

import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")


class Use(NamedTuple):
    """What one process takes."""

    name: str
    """As `ps -o comm` shows it: "torv worker 0"."""
    memory_bytes: int
    """Its proportional share (PSS): what processes have in common is counted once, over all of them."""
    cpu_seconds: float
    """Since it began."""
    open_files: int


def family() -> list[Use]:
    """Return what the supervisor and its children take; nothing where this process is no child of one.

    Takes some milliseconds: the kernel goes through the pages of each.
    """
    if not _read("self", "comm").startswith("torv worker"):
        return []
    supervisor = os.getppid()
    children = _read(supervisor, f"task/{supervisor}/children").split()
    found = []
    for pid in (supervisor, *map(int, children)):
        # It may end while we look.
        with suppress(OSError, ValueError, IndexError):
            found.append(_use(pid, "torv supervisor" if pid == supervisor else ""))
    return found


def _use(pid: int, name: str) -> Use:
    # The name stands in parentheses, and may hold any of these itself.
    fields = _read(pid, "stat").rpartition(")")[2].split()
    pss = next(line for line in _read(pid, "smaps_rollup").splitlines() if line.startswith("Pss:"))
    return Use(
        name or _read(pid, "comm").strip(),
        int(pss.split()[1]) * 1024,
        (int(fields[11]) + int(fields[12])) / _TICKS,
        len(os.listdir(_PROC / str(pid) / "fd")),
    )


def _read(pid: int | str, name: str) -> str:
    return (_PROC / str(pid) / name).read_text()
