"""A verb's parameters as a record of its options."""

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def options_from(kind: type[T], parameters: Mapping[str, object], **others: object) -> T:
    """A record of options, each from the parameter of its name. others: what has another name."""
    named = {
        field.name: parameters[field.name] for field in fields(kind) if field.name in parameters
    }
    return kind(**named | others)
