"""The records of engines as JSON documents and back.

Keys that this version does not know are left out: another version's deployment can be stopped.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from pdctl.deployment.records import ProcessSpec
from pdctl.engines.records import FleetState, Launch, ProcessState


def to_json(record: FleetState | Launch) -> str:
    """One JSON document, readable by a person."""
    return json.dumps(dataclasses.asdict(record), indent=1, default=str) + "\n"


def fleet_state(text: str) -> FleetState:
    """The record in `text`. Raises ValueError where it is not one."""
    data = _document(text)
    data["processes"] = tuple(_process_state(p) for p in data["processes"])
    return FleetState(**_known(FleetState, data))


def launch(text: str) -> Launch:
    """The record in `text`. Raises ValueError where it is not one."""
    data = _document(text)
    for specs in ("specs", "leaving"):
        data[specs] = tuple(_spec(s) for s in data.get(specs, ()))
    for key in ("changes", "retired_ports"):
        data[key] = tuple(data.get(key, ()))
    return Launch(**_known(Launch, data))


def _document(text: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
        return {**data}
    except (TypeError, ValueError, RecursionError) as problem:
        raise ValueError(f"not a JSON object: {problem}") from problem


def _process_state(data: dict[str, Any]) -> ProcessState:
    return ProcessState(**{**_known(ProcessState, data), "gpus": tuple(data["gpus"])})


def _spec(data: dict[str, Any]) -> ProcessSpec:
    lists = {"argv": tuple(data["argv"]), "gpus": tuple(data["gpus"]), "log": Path(data["log"])}
    return ProcessSpec(**{**_known(ProcessSpec, data), **lists})


def _known(record: type, data: dict[str, Any]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(record)}
    return {name: value for name, value in data.items() if name in names}
