"""What the parts of a configuration are made of, and how to go through one's settings."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args, get_origin

import orjson
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "TORV_"
NESTING = "__"


def _read_values(model: type[BaseModel], values: object) -> object:
    """Bring what a file or the environment gave into the form that the model checks.

    A list may also be written as text, for environment variables hold nothing else: as a JSON array,
    or as items with commas between them. And `true` is no number.
    """
    if not isinstance(values, dict):
        return values
    return {
        name: _read_value(model.model_fields[name], value) if name in model.model_fields else value
        for name, value in values.items()
    }


def _read_value(field: FieldInfo, value: object) -> object:
    if isinstance(value, str) and get_origin(field.annotation) in (tuple, list):
        return _split(value)
    if isinstance(value, bool) and field.annotation is not bool:
        # pydantic would take it for 1 or 0.
        return str(value).lower()
    return value


def _split(text: str) -> object:
    if text.lstrip().startswith("["):
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError:
            return text
    return [item.strip() for item in text.split(",") if item.strip()]


class Table(BaseModel):
    """A table of the configuration: frozen, and unknown keys are mistakes."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _read_given(cls, values: object) -> object:
        return _read_values(cls, values)


class LogConfig(Table):
    """[log]: what is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least level shown.")
    format: Literal["auto", "console", "json"] = Field(
        "auto", description="console, json (one object per line), or auto: console on a terminal, else json."
    )


RESTART: dict[str, JsonValue] = {"restart": True}
"""`json_schema_extra` of settings and tables that cannot change while the program runs."""


ANYTIME: dict[str, JsonValue] = {"restart": False}
"""`json_schema_extra` of named tables that may come and go while the program runs."""


class Settings(BaseSettings):
    """The root of a configuration: what every process of this project needs to know."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=PREFIX,
        env_nested_delimiter=NESTING,
        # The library's decoding stops at the first list that is not JSON; `Table` does not.
        enable_decoding=False,
    )

    data: Path = Field(
        Path("data"),
        description="The folder of databases, keys and locks; made if it does not exist. "
        "A relative path counts from the working directory.",
        json_schema_extra=RESTART,
    )
    log: LogConfig = LogConfig()


def field_at(model: type[BaseModel], names: Sequence[str]) -> FieldInfo | None:
    """Return the field that stands at a path of names; None where there is none."""
    field: FieldInfo | None = None
    names = list(names)
    inner: type[BaseModel] | None = model
    while names:
        field = None if inner is None else inner.model_fields.get(names.pop(0))
        if field is None:
            return None
        inner = table_of(field)
        if (named := named_tables_of(field)) is not None and names:
            names.pop(0)
            inner = named
    return field


def model_at(model: type[BaseModel], names: Sequence[str]) -> type[BaseModel] | None:
    """Return the model of the table at a path of names; None where there is none."""
    if not names:
        return model
    field = field_at(model, names)
    if field is None:
        return None
    holds = field_at(model, names[:-1])
    named = None if holds is None else named_tables_of(holds)
    return named or table_of(field)


def variable(path: str) -> str:
    """Return the environment variable of a dotted setting."""
    return PREFIX + path.upper().replace(".", NESTING)


class Leaf(NamedTuple):
    """A setting or a table in a model: its dotted path, its field, and the table it opens."""

    path: str
    field: FieldInfo
    table: type[BaseModel] | None


def named_tables_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the model of the tables in a field that holds some by name (`dict[str, M]`); else None."""
    if get_origin(field.annotation) is not dict:
        return None
    model = get_args(field.annotation)[1]
    return model if isinstance(model, type) and issubclass(model, BaseModel) else None


def walk(model: type[BaseModel], prefix: str = "") -> Iterator[Leaf]:
    """Yield every setting of a model, and every table before what stands in it."""
    for name, field in model.model_fields.items():
        table = table_of(field)
        yield Leaf(prefix + name, field, table)
        if table is not None:
            yield from walk(table, f"{prefix}{name}.")


def table_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the model of a table's field (`M` or `M | None`); None for a plain setting."""
    if get_origin(field.annotation) is dict:
        return None
    for one in (field.annotation, *get_args(field.annotation)):
        if isinstance(one, type) and issubclass(one, BaseModel):
            return one
    return None
