"""Dataclasses that go to JSON and come back, checked against the types of their fields."""

import dataclasses
import enum
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from cxv_jax.errors import InputError

R = TypeVar("R", bound="Record")


class Record:
    """A dataclass that goes to JSON and comes back.

    Files of older versions are read too: fields they lack get their defaults, fields unknown here
    are dropped.
    """

    def to_json(self) -> dict[str, Any]:
        """As plain data; nested records too."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_json(cls: type[R], data: Mapping[str, Any]) -> R:
        """The record that ``data`` was made of, whatever version wrote it.

        Raises:
          TypeError, ValueError: a field without default is missing, or one is of another type.
        """
        kinds = typing.get_type_hints(cls)
        return cls(**{name: _as(kinds[name], x, name) for name, x in data.items() if name in kinds})


def read(kind: type[R], data: Any, where: Path | str) -> R:
    """:meth:`Record.from_json` of what a file holds.

    Raises:
      InputError: naming ``where``, if it is no such record.
    """
    try:
        return kind.from_json(data)
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{where} is damaged ({error}); restore it, or start anew in another workdir"
        ) from error


def _as(kind: Any, value: Any, name: str) -> Any:
    """What JSON has made of a value, as its field declares it."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):  # Here always: something or None.
        some = next(each for each in arguments if each is not type(None))
        return None if value is None else _as(some, value, name)
    if origin is dict and isinstance(value, dict):
        return {key: _as(arguments[1], x, name) for key, x in value.items()}
    if origin in (list, tuple) and isinstance(value, (list, tuple)):
        return origin(_as(arguments[0], x, name) for x in value)
    if isinstance(kind, type) and issubclass(kind, Record) and isinstance(value, dict):
        return kind.from_json(value)
    if isinstance(kind, type) and issubclass(kind, enum.IntEnum):
        return kind(value)
    wanted = (int, float) if kind is float else kind
    if origin or not isinstance(value, wanted) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"{name} is {value!r:.100}")
    return value
