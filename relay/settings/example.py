"""A configuration as text: the commented example, and what an operator changed."""

from collections.abc import Iterator
from pathlib import Path

import orjson
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from relay.settings.table import Settings, named_tables_of, table_of, walk


def changes(settings: Settings) -> dict[str, str]:
    """Return what differs from the defaults, as TOML would have it; secrets are left out."""
    return dict(_changes(settings, ""))


def _changes(settings: BaseModel, prefix: str) -> Iterator[tuple[str, str]]:
    for path, field, table in walk(type(settings)):
        value: object = settings
        for name in path.split("."):
            value = getattr(value, name, None)
        if isinstance(value, dict) and named_tables_of(field) is not None:
            for name, inner in value.items():
                yield from _changes(inner, f"{prefix}{path}.{name}.")
            continue
        default = field.get_default(call_default_factory=False)
        if table is None and value != default and value is not None:
            yield prefix + path, "(not shown)" if isinstance(value, SecretStr) else _toml(value)


def example(model: type[BaseModel]) -> str:
    """Return a commented configuration file with every setting of the model.

    Defaults are commented out, and so are tables that are off when absent. A setting without a
    default shows its field's first example.
    """
    lines: list[str] = []
    _write_table(lines, model, path="", off=False)
    return "\n".join(lines).rstrip() + "\n"


def _write_table(lines: list[str], model: type[BaseModel], *, path: str, off: bool) -> None:
    tables = []
    for name, field in model.model_fields.items():
        if table_of(field) is not None or named_tables_of(field) is not None:
            tables.append((name, field))
            continue
        lines += [f"# {line}" for line in _wrapped(field.description or "")]
        lines += [f"#{name} = {_toml(_example_value(path + name, field))}", ""]
    for name, field in tables:
        if (named := named_tables_of(field)) is not None:
            _write_named_table(lines, named, f"{path}{name}.{(field.examples or ['NAME'])[0]}")
            continue
        table = table_of(field)
        assert table is not None
        inner_off = off or field.get_default(call_default_factory=False) is None
        lines += ["", *(f"# {line}" for line in _wrapped(_summary(table)))]
        if inner_off:
            lines.append("# Off unless this table is present.")
        lines += [f"{'#' if inner_off else ''}[{path}{name}]", ""]
        _write_table(lines, table, path=f"{path}{name}.", off=inner_off)


def _write_named_table(lines: list[str], model: type[BaseModel], path: str) -> None:
    """Write what such a table has of its own; what it shares with another one is shown there."""
    lines += ["", *(f"# {line}" for line in _wrapped(_summary(model))), f"#[{path}]", ""]
    for name in model.__annotations__:
        field = model.model_fields[name]
        value = field.examples[0] if field.examples else _example_value(path, field)
        lines += [f"# {line}" for line in _wrapped(field.description or "")]
        lines += [f"#{name} = {_toml(value)}", ""]


def _summary(table: type[BaseModel]) -> str:
    text = (table.__doc__ or "").partition(": ")[2].split("\n")[0]
    return text[:1].upper() + text[1:]


def _wrapped(text: str) -> list[str]:
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + len(word) > 95:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".lstrip()
    return [*lines, line] if line else lines


def _example_value(path: str, field: FieldInfo) -> object:
    value = field.get_default(call_default_factory=False)
    if field.is_required() or value is None:
        if not field.examples:
            raise TypeError(f"{path} has no default: give its field an example")
        return field.examples[0]
    return value


def _toml(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"{value:_}" if isinstance(value, int) and value >= 100_000 else f"{value}"
        case str() | Path():
            return orjson.dumps(str(value)).decode()
        case tuple() | list():
            return f"[{', '.join(map(_toml, value))}]"
    raise TypeError(f"no TOML for {type(value).__name__}")
