"""JSON Schemas of records: what `json.dumps(asdict(record))` may hold. Pure."""

import dataclasses
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_PLAIN = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    Path: {"type": "string"},
    object: {},
    Any: {},
}

Schema = dict[str, Any]


def schema_of(kind: Any) -> Schema:
    """The schema of a dataclass, a TypedDict, or a type built from them.

    Every record is defined once, under `$defs`. Raises TypeError for a type that JSON cannot hold.
    """
    definitions: dict[str, Schema] = {}
    root = _schema(kind, definitions)
    return {**root, "$defs": definitions} if definitions else root


def _schema(kind: Any, definitions: dict[str, Schema]) -> Schema:
    kind = getattr(kind, "__supertype__", kind)  # a NewType is what it renames
    if kind in _PLAIN:
        return dict(_PLAIN[kind])
    if is_typeddict(kind) or dataclasses.is_dataclass(kind):
        return _reference(kind, definitions)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema(one, definitions) for one in arguments]}
    if origin is tuple and arguments[-1] is not ...:
        return _fixed(arguments, definitions)
    if origin in (tuple, list, Sequence):
        return {"type": "array", "items": _schema(arguments[0], definitions)}
    if origin in (dict, Mapping):
        return {"type": "object", "additionalProperties": _schema(arguments[1], definitions)}
    raise TypeError(f"{kind} has no JSON Schema")


def _fixed(kinds: tuple[Any, ...], definitions: dict[str, Schema]) -> Schema:
    items = [_schema(one, definitions) for one in kinds]
    return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}


def _reference(kind: Any, definitions: dict[str, Schema]) -> Schema:
    """A reference to a record, which is added to `definitions` the first time it is met."""
    name = kind.__name__
    if name not in definitions:
        definitions[name] = {}  # stops a record that contains itself
        definitions[name] = _record(kind, definitions)
    return {"$ref": f"#/$defs/{name}"}


def _record(kind: Any, definitions: dict[str, Schema]) -> Schema:
    hints = get_type_hints(kind)
    if dataclasses.is_dataclass(kind):
        hints = {field.name: hints[field.name] for field in dataclasses.fields(kind)}
    required = sorted(kind.__required_keys__) if is_typeddict(kind) else list(hints)
    described = {"description": first_sentence(kind)} if first_sentence(kind) else {}
    return {
        "type": "object",
        **described,
        "properties": {name: _schema(hint, definitions) for name, hint in hints.items()},
        "required": required,
        "additionalProperties": False,
    }


def first_sentence(kind: Any) -> str:
    """The first line of a docstring, or "" where there is none of its own."""
    text = kind.__doc__ or ""
    return "" if text.startswith((f"{kind.__name__}(", "dict(")) else text.split("\n")[0].strip()
