"""What differs between two configurations, and which of it takes a restart."""

from collections.abc import Iterator
from typing import NamedTuple, TypeVar

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from relay.settings.table import ANYTIME, RESTART, Settings, named_tables_of, table_of

T = TypeVar("T", bound=BaseModel)


class Difference(NamedTuple):
    """A setting, or a table that only one of two configurations has."""

    path: str
    """Such as `relay.limits.max_filters`."""
    takes_restart: bool
    """Whether it can change only when the program starts."""


def differences(before: Settings, after: Settings) -> list[Difference]:
    """Return what differs, in the order of the models. Both are of one class."""
    return list(_differences(before, after, "", False))


def _differences(
    before: BaseModel, after: BaseModel, prefix: str, takes_restart: bool
) -> Iterator[Difference]:
    for name, field in type(before).model_fields.items():
        old, new = getattr(before, name), getattr(after, name)
        path, fixed = prefix + name, takes_restart or _is_fixed(field)
        if old == new:
            continue
        if named_tables_of(field) is not None:
            for one in sorted(old.keys() | new.keys()):
                if one in old and one in new:
                    yield from _differences(old[one], new[one], f"{path}.{one}.", fixed)
                else:
                    yield Difference(f"{path}.{one}", fixed or field.json_schema_extra != ANYTIME)
        elif table_of(field) is not None and old is not None and new is not None:
            yield from _differences(old, new, f"{path}.", fixed)
        else:
            yield Difference(path, fixed)


def _is_fixed(field: FieldInfo) -> bool:
    return field.json_schema_extra == RESTART


def keeping_fixed(before: T, after: T) -> T:
    """Return `after` with what takes a restart as it was before."""
    kept: dict[str, object] = {}
    for name, field in type(before).model_fields.items():
        old, new = getattr(before, name), getattr(after, name)
        if _is_fixed(field):
            kept[name] = old
        elif table_of(field) is not None and old is not None and new is not None:
            kept[name] = keeping_fixed(old, new)
    return after.model_copy(update=kept)
