"""The documents: what they link to is there, and what they tell to type is understood."""

import re
import shlex
from pathlib import Path

import click
import pytest

from torv import main

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])

_LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")
_COMMAND = re.compile(r"(?:`|^    (?:\$ )?)(?:\.venv/bin/)?torv ([^`\n]+)", re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    targets = [target for target in _LINK.findall(document.read_text()) if "://" not in target]

    assert [target for target in targets if not (document.parent / target).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_are_understood(document: Path) -> None:
    for text in _COMMAND.findall(document.read_text()):
        words = shlex.split(re.split(r"[;…>|]", text)[0], comments=True)
        check_command(main, words)


def check_command(command: click.Command, words: list[str]) -> None:
    """Fail where Torv would not understand the words of a command line."""
    context = click.Context(command)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        assert found is not None, f"no command {words[0]!r}"
        command, words = found, words[1:]
    options = {option for parameter in command.params for option in parameter.opts} | {"--help", "-h"}
    unknown = [word for word in words if word.startswith("-") and word != "-" and word not in options]
    assert unknown == []
