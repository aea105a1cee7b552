"""From a TOML file, the environment and the command line to one frozen model."""

import os
import re
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Protocol, TypeVar

import click
from pydantic import BaseModel, ValidationError
from pydantic_settings import EnvSettingsSource, InitSettingsSource, PydanticBaseSettingsSource

from relay.settings.mistakes import ConfigError, Given, Mistake, describe
from relay.settings.table import NESTING, PREFIX, Settings, variable, walk

_MAX_FILE_BYTES = 2**20
_TOML_ERROR_LINE = re.compile(r"\(at line (\d+), column \d+\)")

S = TypeVar("S", bound=Settings)


def load(
    model: type[S],
    *,
    file: Path | None = None,
    overrides: Mapping[str, object] | None = None,
    short_names: Mapping[str, str] | None = None,
    reserved: frozenset[str] = frozenset(),
) -> S:
    """Read the configuration: `overrides` win over the environment, and that over the file.

    `overrides` maps dotted settings to values; None overrides nothing. `short_names` maps environment
    variables to dotted settings (`TORV_PORT` to `relay.port`); a long name wins over a short one.
    `reserved` are variables with our prefix that are not settings. Raises ConfigError.
    """
    text, parsed, mistakes = _read_toml(file)
    short = {name: path for name, path in (short_names or {}).items() if name in os.environ}
    sources: tuple[PydanticBaseSettingsSource, ...] = (
        InitSettingsSource(model, _nest({k: v for k, v in (overrides or {}).items() if v is not None})),
        EnvSettingsSource(model),
        InitSettingsSource(model, _nest({path: os.environ[name] for name, path in short.items()})),
        InitSettingsSource(model, parsed),
    )
    mistakes += _unknown_variables(model, frozenset(short_names or {}) | reserved)
    try:
        settings = model(_build_sources=(sources, {}))
    except ValidationError as error:
        given = Given(sources, {path: name for name, path in short.items()}, file, text)
        # The errors' inputs are taken from the layers instead: see `_shown`.
        mistakes += [describe(model, details, given) for details in error.errors(include_url=False)]
    if mistakes:
        raise ConfigError(tuple(mistakes))
    return settings


def _read_toml(file: Path | None) -> tuple[str, dict[str, object], list[Mistake]]:
    if file is None:
        return "", {}, []
    try:
        with file.open("rb") as opened:
            raw = opened.read(_MAX_FILE_BYTES + 1)
        if len(raw) > _MAX_FILE_BYTES:
            return "", {}, [Mistake(str(file), "", f"longer than {_MAX_FILE_BYTES} bytes")]
        text = raw.decode()
        return text, tomllib.loads(text), []
    except OSError as error:
        return "", {}, [Mistake(str(file), "", f"cannot be read: {error.strerror}")]
    except UnicodeDecodeError as error:
        return "", {}, [Mistake(str(file), "", f"expected UTF-8, found another byte at {error.start}")]
    except tomllib.TOMLDecodeError as error:
        found = _TOML_ERROR_LINE.search(str(error))
        source = f"{file}:{found[1]}" if found else str(file)
        hint = 'Text stands in quotes: name = "Torv"'
        return "", {}, [Mistake(source, "", f"is not TOML: {error}", hint)]


def _nest(values: Mapping[str, object]) -> dict[str, object]:
    """Turn {"relay.port": x} into {"relay": {"port": x}}."""
    tree: dict[str, object] = {}
    for path, value in values.items():
        *tables, leaf = path.split(".")
        table = tree
        for name in tables:
            inner = table.setdefault(name, {})
            assert isinstance(inner, dict), "a short name stands for a value, not for a table"
            table = inner
        table[leaf] = value
    return tree


def _unknown_variables(model: type[BaseModel], known: frozenset[str]) -> list[Mistake]:
    # The library passes over a name whose first part is no setting: a typing error would be silent.
    mistakes = []
    names = sorted(known | {variable(path) for path, _, _ in walk(model)})
    for name in sorted(os.environ):
        head = name.removeprefix(PREFIX).split(NESTING)[0].lower()
        if name.startswith(PREFIX) and name not in known and head not in model.model_fields:
            close = get_close_matches(name, names, 1)
            hint = f"Did you mean {close[0]}?" if close else ""
            mistakes.append(Mistake(f"environment variable {name}", "", "unknown setting", hint))
    return mistakes


C_co = TypeVar("C_co", covariant=True)


class Loader(Protocol[C_co]):
    """How a command gets the configuration: click's context holds one (`context.obj`)."""

    def __call__(self, file: Path | None, overrides: Mapping[str, object]) -> C_co:
        """Read it; ends the program with status 2 and a report if it is wrong."""


config_option = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="TORV_CONFIG",
    help="The configuration file (TOML); TORV_CONFIG names it too.",
)
"""For every command that needs the configuration. No file is read that nobody named."""
