"""What is wrong with a configuration, said so that the operator finds the line and knows what to write.

A value that may be a secret is never shown.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple, get_args

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import PydanticBaseSettingsSource

from relay.settings.table import field_at, model_at, variable, walk

_MAX_SHOWN_CHARS = 60

Location = tuple[str | int, ...]
"""Where a setting stands: the names of tables and setting, then the index in a list."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong with the configuration."""

    source: str
    """Where it stands: `torv.toml:12`, `environment variable TORV_PORT`, `command line`."""
    path: str
    """The setting, such as `relay.limits.max_filters`; empty when the whole file is unreadable."""
    problem: str
    """What was expected, and what was found."""
    hint: str = ""

    def __str__(self) -> str:
        head = ": ".join(part for part in (self.source, self.path, self.problem) if part)
        return f"{head}\n    {self.hint}" if self.hint else head


class ConfigError(Exception):
    """The configuration cannot be used; holds every mistake in it, not only the first."""

    def __init__(self, mistakes: tuple[Mistake, ...]) -> None:
        count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        super().__init__("\n".join([f"the configuration has {count}:", *(f"  {one}" for one in mistakes)]))
        self.mistakes = mistakes


class Given(NamedTuple):
    """What was given by whom, to tell where a mistake stands."""

    sources: tuple[PydanticBaseSettingsSource, ...]
    """Overrides, environment, short names, file: the first that has a value has won."""
    short: Mapping[str, str]
    """Settings by short names, to the names."""
    file: Path | None
    text: str

    def where(self, path: Location) -> str:
        dotted = _dotted(path)
        setting = ".".join(part for part in path if isinstance(part, str))
        index = next((i for i, source in enumerate(self.sources) if _has(source(), path)), None)
        match index:
            case 0:
                return "command line"
            case 1:
                return f"environment variable {variable(setting)}"
            case 2:
                return f"environment variable {self.short.get(setting, variable(setting))}"
            case 3:
                line = line_of(self.text, path)
                return f"{self.file}:{line}" if line else str(self.file)
        # A table that lacks a setting it needs.
        return self.where(path[:-1]) if len(path) > 1 else str(self.file or dotted)


def _has(tree: object, path: Location) -> bool:
    for part in path:
        if isinstance(part, int):
            # The item of a list that was written as text.
            return tree is not None
        if not isinstance(tree, dict) or part not in tree:
            return False
        tree = tree[part]
    return True


def line_of(text: str, path: Location) -> int | None:
    """Return the line of a setting in TOML text, from 1; None where it is not found.

    Reads headers and keys only, as people write them; tomllib does not keep positions.
    """
    wanted = [part for part in path if isinstance(part, str)]
    table: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped.startswith("["):
            table = _keys(stripped.strip("[] ").split("]")[0])
            here = table
        elif "=" in stripped and not stripped.startswith("#"):
            here = table + _keys(stripped.split("=")[0])
        else:
            continue
        if here == wanted:
            return number
    return None


def _keys(text: str) -> list[str]:
    return [key.strip().strip("\"'") for key in text.split(".")]


def _dotted(path: Location) -> str:
    """Write a path as `relay.admins[0]`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def describe(model: type[BaseModel], error: ErrorDetails, given: Given) -> Mistake:
    path = error["loc"]
    source = given.where(path)
    if error["type"] == "extra_forbidden":
        # Its value is not shown: it may be a secret under a misspelt name.
        return Mistake(source, _dotted(path), "unknown setting", _similar(model, path))
    field = _field(model, path)
    hint = (field.description or "") if field else ""
    if error["type"] == "missing":
        return Mistake(source, _dotted(path), "this setting is required", hint)
    expected, shown = _expected(error, field), _shown(field, error["input"])
    if expected == "a table":
        # Text in its place may be a whole table as JSON, with all that is in it.
        shown = type(error["input"]).__name__.replace("str", "text")
    return Mistake(source, _dotted(path), f"expected {expected}, found {shown}", hint)


def _field(model: type[BaseModel], path: Location) -> FieldInfo | None:
    return field_at(model, [part for part in path if isinstance(part, str)])


def _similar(model: type[BaseModel], path: Location) -> str:
    """Guess what an unknown key was meant to be: a misspelling, or a key of another table."""
    *tables, key = (part for part in path if isinstance(part, str))
    prefix = "".join(f"{table}." for table in tables)
    leaves = [leaf.path for leaf in walk(model)]
    here = model_at(model, tables)
    beside = [] if here is None else list(here.model_fields)
    elsewhere = [leaf for leaf in leaves if leaf.split(".")[-1] == key]
    if elsewhere:
        return f"Did you mean {elsewhere[0]}?"
    close = get_close_matches(key, beside, 1)
    return f"Did you mean {prefix}{close[0]}?" if close else f"Known here: {', '.join(sorted(beside))}."


_EXPECTED = {
    "int_type": "an integer",
    "int_parsing": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "path_type": "a path",
    "tuple_type": "a list",
    "list_type": "a list",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "dict_type": "a table",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "string_too_long": "at most {max_length} characters",
    "string_too_short": "at least {min_length} characters",
    "string_pattern_mismatch": "text of the form {pattern}",
    "literal_error": "{expected}",
}


def _expected(error: ErrorDetails, field: FieldInfo | None) -> str:
    context = error.get("ctx", {})
    if error["type"] == "string_pattern_mismatch" and field is not None and field.examples:
        return f"text such as {field.examples[0]!r}"
    if error["type"] == "value_error":
        return str(context["error"]).removeprefix("expected ")
    if error["type"] in _EXPECTED:
        return _EXPECTED[error["type"]].format(**context)
    return error["msg"].removeprefix("Input should be ")


def _shown(field: FieldInfo | None, value: object) -> str:
    text = repr(value)
    if field is not None and SecretStr in (field.annotation, *get_args(field.annotation)):
        return "something else (not shown)"
    if "nsec1" in text or "BEGIN" in text:
        return "what looks like a secret (not shown)"
    if isinstance(value, dict):
        return "a table"
    return text if len(text) <= _MAX_SHOWN_CHARS else text[:_MAX_SHOWN_CHARS] + "…"
