"""Who may import whom, and who may touch what: the lines drawn in docs/architecture.md."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

FLOORS: tuple[frozenset[str], ...] = (
    frozenset({"relay.nostr", "relay.settings"}),
    frozenset({"relay.lists"}),
    frozenset({"relay.policy_config"}),
    frozenset({"relay.client", "relay.collector", "relay.config", "relay.logs"}),
    frozenset({"relay.store"}),
    frozenset({"relay.engine", "relay.search"}),
    frozenset({"relay.plugins"}),
    frozenset({"relay.features", "relay.policies", "relay.net", "relay.media", "relay.square"}),
    frozenset({"relay.transfer", "relay.assembly", "relay.doctor"}),
    frozenset({"relay.mirror"}),
    frozenset({"relay.writing", "relay.worker"}),
    frozenset({"relay.app"}),
    frozenset({"relay.commands"}),
    frozenset({"relay.cli"}),
    frozenset({"torv"}),
)
"""From the ground up. A part imports only what lies on lower floors: neighbours do not know each other."""

NARROWER = {
    "relay.nostr": set(),
    "relay.settings": set(),
    "relay.client": {"relay.nostr"},
    # Its writer process is a program of its own, with logs.
    "relay.store": {"relay.nostr", "relay.settings", "relay.logs", "relay.collector"},
    "relay.engine": {"relay.nostr", "relay.store"},
    # So is its indexer.
    "relay.search": {"relay.nostr", "relay.store", "relay.settings", "relay.logs", "relay.collector"},
    # Nostr clients like any other.
    "relay.doctor": {"relay.nostr", "relay.client", "relay.config", "relay.settings"},
    "bridge": {"relay.nostr", "relay.client", "relay.settings"},
}
"""Parts for which being above something is not enough to import it."""

BACKENDS = ("relay.store.sqlite", "relay.store.memory", "relay.store.link")

SOURCES = sorted([*ROOT.glob("relay/**/*.py"), *ROOT.glob("bridge/**/*.py"), ROOT / "torv.py"])


def module_of(path: Path) -> str:
    """Return a file's dotted name."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path) -> Iterator[str]:
    """Yield the dotted name of everything that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module is not None, f"{path} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part_of(name: str) -> str | None:
    """Return the part of the project that a dotted name belongs to; None for what lies outside of it.

    What stands in `relay/__init__.py` belongs to no part: everybody may have it.
    """
    first, _, rest = name.partition(".")
    if first == "relay":
        if not rest:
            return None
        part = f"relay.{rest.partition('.')[0]}"
        known = (ROOT / part.replace(".", "/")).is_dir() or (ROOT / f"{part.replace('.', '/')}.py").is_file()
        return part if known else None
    return first if first in ("bridge", "torv") else None


def floor_of(part: str) -> int:
    (floor,) = (number for number, parts in enumerate(FLOORS) if part in parts)
    return floor


def sources_of(*names: str) -> list[Path]:
    return [path for path in SOURCES if module_of(path).startswith(names)]


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_imports_go_down_only(path: Path) -> None:
    part = part_of(module_of(path))
    if part is None:
        assert module_of(path) == "relay"
        assert not any(map(part_of, imports_of(path)))
        return

    for name in imports_of(path):
        imported = part_of(name)
        if imported in (None, part):
            continue
        if part in NARROWER:
            assert imported in NARROWER[part], f"{part} must not import {name}"
        elif part != "torv":
            assert imported not in ("bridge", "torv"), f"{part} must not import {name}"
            assert floor_of(imported) < floor_of(part), f"{part} must not import {name}"


def test_every_part_has_its_floor() -> None:
    parts = {part for path in SOURCES if (part := part_of(module_of(path))) not in (None, "bridge")}

    assert parts <= frozenset().union(*FLOORS)


def test_every_part_is_described() -> None:
    text = (ROOT / "docs/architecture.md").read_text()

    for path in ROOT.glob("relay/*/"):
        if path.name != "__pycache__":
            assert f"`relay/{path.name}/`" in text, path.name


@pytest.mark.parametrize("path", sources_of("relay.nostr"), ids=module_of)
def test_ground_floor_knows_no_clock_no_network_and_no_thread(path: Path) -> None:
    outside = {"asyncio", "logging", "os", "random", "socket", "sqlite3", "structlog", "threading", "time"}

    assert not outside & {name.partition(".")[0] for name in imports_of(path)}


@pytest.mark.parametrize(
    "path", sources_of("relay.engine", "relay.features", "relay.policies"), ids=module_of
)
def test_engine_and_features_know_no_socket_no_thread_and_no_database(path: Path) -> None:
    outside = {"aiohttp", "concurrent", "select", "socket", "sqlite3", "threading", "websockets"}

    assert not outside & {name.partition(".")[0] for name in imports_of(path)}


def test_only_the_programs_choose_a_store() -> None:
    choosing = {
        part_of(module_of(path))
        for path in SOURCES
        if any(name.startswith(BACKENDS) for name in imports_of(path))
    }

    assert choosing <= {
        "relay.store",
        "relay.search",
        "relay.mirror",
        "relay.worker",
        "relay.writing",
        "relay.commands",
        "torv",
    }


def test_only_one_file_sees_the_curve() -> None:
    seeing = {
        module_of(path)
        for path in SOURCES
        if any(name.partition(".")[0] == "coincurve" for name in imports_of(path))
    }

    assert seeing == {"relay.nostr.keys"}


def test_only_groups_of_commands_import_by_name() -> None:
    importing = {
        module_of(path)
        for path in SOURCES
        if any(name in ("importlib", "importlib.import_module") for name in imports_of(path))
    }

    assert importing <= {"relay.settings.lazy"}
