"""The columns of the status table, per role. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pdctl.perf_model.records import Role
from pdctl.status.records import EngineStatus
from pdctl.units import format_rate, format_seconds, format_share

NONE = "–"
_BARS = "▁▂▃▄▅▆▇█"
STATES = {
    "up": ("● up", "green"),
    "starting": ("◐ starting", "yellow"),
    "stale": ("◌ stale", "dim"),
    "unreachable": ("✗ no answer", "red"),
    "failed": ("✗ failed", "red"),
}


@dataclass(frozen=True)
class Column:
    """One column of a role's table. priority: 0 stays, larger numbers are dropped first."""

    title: str
    cell: Callable[[EngineStatus], str]
    total: Callable[[Sequence[EngineStatus]], str] | None = None
    priority: int = 0
    left: bool = False


def _count(name: str) -> Callable[[EngineStatus], str]:
    return lambda row: _number(_of(row, name), "{:,.0f}".format)


def _counts(name: str) -> Callable[[Sequence[EngineStatus]], str]:
    return lambda rows: _number(_sum(rows, name), "{:,.0f}".format)


def _of(row: EngineStatus, name: str) -> float | None:
    value = getattr(row.sample, name) if row.sample else None
    return None if value is None else float(value)


def _number(value: float | None, form: Callable[[float], str]) -> str:
    return NONE if value is None else form(value)


def _fresh(rows: Sequence[EngineStatus], name: str) -> list[float]:
    """Of the engines that answer now: the last numbers of the others are no part of a sum."""
    values = (_of(row, name) for row in rows if row.health == "up")
    return [value for value in values if value is not None]


def _sum(rows: Sequence[EngineStatus], name: str) -> float | None:
    known = _fresh(rows, name)
    return sum(known) if known else None


def _mean(rows: Sequence[EngineStatus], name: str) -> float | None:
    known = _fresh(rows, name)
    return sum(known) / len(known) if known else None


def _kv(role: str) -> Column:
    return Column(
        "KV use",
        lambda row: _number(_of(row, "kv_usage"), format_share),
        lambda rows: _number(_mean(rows, "kv_usage"), format_share),
        3 if role == "prefill" else 0,
    )


def _tokens(priority: int) -> Column:
    return Column(
        "tok/s",
        lambda row: _number(_of(row, "tokens_per_s"), format_rate),
        lambda rows: _number(_sum(rows, "tokens_per_s"), format_rate),
        priority,
    )


def _queue(title: str, name: str, priority: int = 0) -> Column:
    return Column(title, _count(name), _counts(name), priority)


def _seconds(title: str, name: str, priority: int) -> Column:
    return Column(
        title,
        lambda row: _number(_of(row, name), format_seconds),
        lambda rows: _number(_mean(rows, name), format_seconds) if "p50" in name else "",
        priority,
    )


def _speed(value: float | None) -> str:
    return NONE if value is None else f"{value:.1f} GB/s" if value >= 0.05 else "<0.1 GB/s"


def _age(row: EngineStatus) -> str:
    return NONE if row.age_s is None else f"{row.age_s:.1f} s"


def _address(row: EngineStatus) -> str:
    return row.target.url.split("://", 1)[-1]


def _state(row: EngineStatus) -> str:
    return STATES[row.health][0]


def _note(row: EngineStatus) -> str:
    return row.problem if len(row.problem) <= 40 else row.problem[:39] + "…"


def _columns(role: Role, *middle: Column) -> tuple[Column, ...]:
    return (
        Column(role.upper(), lambda row: row.target.name, lambda rows: str(len(rows)), left=True),
        Column("state", _state, left=True),
        *middle,
        Column("breaker", lambda row: row.breaker or NONE, priority=8),
        Column("age", _age, priority=6),
        Column("address", _address, priority=9, left=True),
        Column("note", _note, priority=2, left=True),
    )


COLUMNS: dict[Role, tuple[Column, ...]] = {
    "prefill": _columns(
        "prefill",
        _queue("bootstrap", "bootstrap"),
        _queue("waiting", "waiting"),
        _queue("inflight", "inflight"),
        _tokens(1),
        Column(
            "KV out",
            lambda row: _speed(_of(row, "transfer_gb_per_s")),
            lambda rows: _speed(_mean(rows, "transfer_gb_per_s")),
            4,
        ),
        _queue("fails", "transfer_failures", 5),
        _kv("prefill"),
    ),
    "decode": _columns(
        "decode",
        _queue("prealloc", "prealloc"),
        _queue("transfer", "transfer"),
        _queue("waiting", "waiting", 5),
        _queue("running", "running"),
        _kv("decode"),
        _tokens(1),
        _seconds("ITL", "itl_p50_s", 1),
        _seconds("TTFT", "ttft_p50_s", 4),
        _queue("retracted", "retracted", 9),
        _queue("fails", "transfer_failures", 8),
    ),
    "colocated": _columns(
        "colocated",
        _queue("waiting", "waiting"),
        _queue("running", "running"),
        _kv("colocated"),
        _tokens(1),
        _seconds("TTFT", "ttft_p50_s", 3),
        _seconds("ITL", "itl_p50_s", 1),
    ),
}


def sparkline(values: Sequence[float]) -> str:
    """The queue over time as ten bars; empty while it was always empty."""
    if len(values) < 3 or max(values) <= 0:
        return ""
    num = min(10, len(values))
    edges = [i * len(values) // num for i in range(num + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in zip(edges, edges[1:], strict=False)]
    top = max(means)
    return "".join(_BARS[min(7, int(mean / top * 7.999))] for mean in means)
