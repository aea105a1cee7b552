"""docs/security.md promises nothing without a test that holds it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENT = (ROOT / "docs/security.md").read_text()
PROMISES = re.findall(r"^\| (?!promise \||---)(.+) \| (.+) \|$", DOCUMENT, re.MULTILINE)


def test_there_are_promises() -> None:
    sections = re.split(r"^## ", DOCUMENT, flags=re.MULTILINE)[1:]

    assert len(PROMISES) > 30
    assert [section.splitlines()[0] for section in sections if "Not promised" not in section] == []
    assert [section.splitlines()[0] for section in sections if "| promise | held by |" not in section] == []


@pytest.mark.parametrize(("promise", "held_by"), PROMISES)
def test_a_promise_is_held_by_tests_that_are_there(promise: str, held_by: str) -> None:
    files = re.findall(r"`(tests/[a-z0-9_/]+\.py)`", held_by)

    assert files, promise
    assert ", ".join(f"`{file}`" for file in files) == held_by
    for file in files:
        assert "def test_" in (ROOT / file).read_text(), file
