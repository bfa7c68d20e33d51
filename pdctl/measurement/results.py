"""Results of a load: records, summary, and files with one JSON line per run.

The files have the keys and units of sglang.bench_serving --output-details, so its readers and
pdctl's own trace reader accept them. Further keys (intended times, token times) let pdctl read
the whole run back.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from pdctl.errors import InvalidInput
from pdctl.perf_model.metrics import is_good, percentiles
from pdctl.perf_model.records import Percentiles
from pdctl.workload.records import Slo

Connections = Literal["kept", "new"]

WARM_UP, COOL_DOWN = 0.1, 0.05
LATE_S = 0.010  # do not trust a load whose generator was later than this at p99
_FORMAT = 1


@dataclass(frozen=True)
class Sent:
    """One request as the client saw it. Times are in seconds since the load began.

    intended_s: when the request was due. Latencies count from here, so that a generator that
        falls behind lengthens latencies and never shortens them.
    token_s: arrival of each output token. Tokens of one read have the same time.
    """

    index: int
    intended_s: float
    sent_s: float
    end_s: float
    isl: int
    osl: int  # as requested
    token_s: tuple[float, ...]
    cached_tokens: int | None = None
    error: str | None = None

    @property
    def lateness_s(self) -> float:
        return self.sent_s - self.intended_s

    @property
    def ttft_s(self) -> float | None:
        return self.token_s[0] - self.intended_s if self.token_s else None

    @property
    def tpot_s(self) -> float | None:
        """Mean time per token after the first; 0 if there is only one token."""
        if not self.token_s:
            return None
        return (self.token_s[-1] - self.token_s[0]) / max(len(self.token_s) - 1, 1)

    @property
    def e2e_s(self) -> float | None:
        return self.end_s - self.intended_s if self.error is None else None

    @property
    def is_truncated(self) -> bool:
        """True if it ended without an error but with fewer tokens than requested."""
        return self.error is None and len(self.token_s) < self.osl

    @property
    def is_whole(self) -> bool:
        return self.error is None and not self.is_truncated


@dataclass(frozen=True)
class LoadResult:
    """A finished load: its requests in order of intended time.

    started_at: Unix seconds. cpu_s: CPU time of the generator. is_interrupted: some of the
    requests were never sent.
    """

    url: str
    sent: tuple[Sent, ...]
    started_at: float
    span_s: float
    cpu_s: float
    speed: float = 1.0
    connections: Connections = "kept"
    concurrency: int | None = None
    is_interrupted: bool = False


@dataclass(frozen=True)
class Forecast:
    """Prediction for a load, made before it began. at: Unix seconds.

    basis: the profile that gave the step times, or "roofline". The percentiles are over the same
    window of requests as those of LoadSummary.
    """

    at: float
    basis: str
    ttft_s: Percentiles | None
    tpot_s: Percentiles | None


@dataclass(frozen=True)
class LoadProgress:
    """Progress of a load. Percentiles are over the requests that have ended; None: none has."""

    at_s: float
    num_requests: int
    num_sent: int
    num_done: int
    num_failed: int
    ttft_s: Percentiles | None
    tpot_s: Percentiles | None


@dataclass(frozen=True)
class LoadSummary:
    """Figures of a load, from the requests inside its window only.

    window_s: first and last intended time that counts, without warm-up and cool-down. Rates are
    per second of the window. attainment, goodput_rps: None without SLOs.
    """

    window_s: tuple[float, float]
    num_requests: int
    num_failed: int
    num_truncated: int
    errors: Mapping[str, int]  # message -> count
    ttft_s: Percentiles | None
    tpot_s: Percentiles | None
    itl_s: Percentiles | None
    e2e_s: Percentiles | None
    lateness_s: Percentiles | None
    requests_per_s: float
    input_tokens_per_s: float
    output_tokens_per_s: float
    cached_share: float | None  # share of prompt tokens that the engines reported as cached
    attainment: float | None
    goodput_rps: float | None
    cpu_s_per_token: float | None
    is_generator_late: bool  # the generator was the bottleneck, so the figures are not reliable


def window(
    times_s: Sequence[float], warm_up: float = WARM_UP, cool_down: float = COOL_DOWN
) -> tuple[float, float]:
    """First and last intended time that counts: excludes warm-up and cool-down.

    warm_up, cool_down: shares of the time in which requests are sent. An engine that fills up or
    runs empty is not in a steady state. If no request lies between (a few bursts), all count.
    """
    if not times_s:
        return 0.0, 0.0
    first, last = min(times_s), max(times_s)
    start_s, end_s = first + warm_up * (last - first), last - cool_down * (last - first)
    if any(start_s <= at_s <= end_s for at_s in times_s):
        return start_s, end_s
    return first, last


def summary(
    result: LoadResult,
    slo: Slo | None = None,
    *,
    warm_up: float = WARM_UP,
    cool_down: float = COOL_DOWN,
) -> LoadSummary:
    """Summarise a load without its first and last requests.

    warm_up, cool_down: see `window`.
    Ignores: requests outside the window that shared an engine with those inside.
    """
    start_s, end_s = window([one.intended_s for one in result.sent], warm_up, cool_down)
    inside = [one for one in result.sent if start_s <= one.intended_s <= end_s]
    whole = [one for one in inside if one.error is None]
    span_s = _span(inside, start_s, end_s)
    lateness_s = percentiles(one.lateness_s for one in inside)
    tokens = sum(len(one.token_s) for one in whole)
    good = _num_good(inside, slo)
    all_tokens = sum(len(one.token_s) for one in result.sent)
    return LoadSummary(
        window_s=(start_s, end_s),
        num_requests=len(inside),
        num_failed=sum(one.error is not None for one in inside),
        num_truncated=sum(one.is_truncated for one in inside),
        errors=dict(Counter(one.error for one in inside if one.error).most_common()),
        ttft_s=percentiles(one.ttft_s for one in whole),
        tpot_s=percentiles(one.tpot_s for one in whole),
        itl_s=percentiles(gap for one in whole for gap in gaps_s(one)),
        e2e_s=percentiles(one.e2e_s for one in whole),
        lateness_s=lateness_s,
        requests_per_s=len(whole) / span_s if span_s > 0 else 0.0,
        input_tokens_per_s=sum(one.isl for one in whole) / span_s if span_s > 0 else 0.0,
        output_tokens_per_s=tokens / span_s if span_s > 0 else 0.0,
        cached_share=_cached_share(whole),
        attainment=good / len(inside) if good is not None and inside else None,
        goodput_rps=good / span_s if good is not None and span_s > 0 else None,
        cpu_s_per_token=result.cpu_s / all_tokens if all_tokens else None,
        is_generator_late=bool(lateness_s and lateness_s.p99 > LATE_S),
    )


def gaps_s(one: Sent) -> list[float]:
    """Gaps between tokens. Tokens that arrived together share the gap before them equally."""
    gaps: list[float] = []
    pending = 0
    last_s = one.token_s[0] if one.token_s else 0.0
    for at_s in one.token_s[1:]:
        if at_s == last_s and gaps:
            pending += 1
            continue
        if pending:
            _share_last(gaps, pending)
            pending = 0
        gaps.append(at_s - last_s)
        last_s = at_s
    if pending:
        _share_last(gaps, pending)
    return gaps


def _share_last(gaps: list[float], extra: int) -> None:
    share = gaps.pop() / (extra + 1)
    gaps.extend([share] * (extra + 1))


def _span(inside: Sequence[Sent], start_s: float, end_s: float) -> float:
    """Length of the window. If it is a single instant, the time until the last answer."""
    if end_s > start_s:
        return end_s - start_s
    return max((one.end_s for one in inside), default=start_s) - start_s


def _num_good(inside: Sequence[Sent], slo: Slo | None) -> int | None:
    """Number of requests that met the SLOs. Failed and truncated requests did not."""
    if slo is None or not slo.is_given:
        return None
    return sum(one.is_whole and is_good(one.ttft_s, one.tpot_s, slo) for one in inside)


def _cached_share(whole: Sequence[Sent]) -> float | None:
    known = [one for one in whole if one.cached_tokens is not None]
    tokens = sum(one.isl for one in known)
    return sum(one.cached_tokens or 0 for one in known) / tokens if tokens else None


def write_result(path: Path, result: LoadResult, forecast: Forecast | None = None) -> None:
    """Append one run and the forecast for it to a JSONL file."""
    document = _document(result, summary(result))
    if forecast is not None:
        document["pdctl_predicted"] = _predicted(forecast)
    line = json.dumps(document, allow_nan=False)
    with path.open("a", encoding="utf-8") as out:
        out.write(line + "\n")


def read_results(path: Path) -> list[LoadResult]:
    """Read the runs from a file that pdctl wrote.

    Raises InvalidInput naming the file and the first line that is not such a run.
    """
    with path.open(encoding="utf-8") as lines:
        return [_result(path, number, line) for number, line in enumerate(lines, 1)]


def _result(path: Path, number: int, line: str) -> LoadResult:
    try:
        found = json.loads(line)
        own = found["pdctl"]
        return LoadResult(
            url=own["url"],
            sent=tuple(_rows(found, own)),
            started_at=own["started_at"],
            span_s=own["span_s"],
            cpu_s=own["cpu_s"],
            speed=own["speed"],
            connections=own["connections"],
            concurrency=found["max_concurrency"],
            is_interrupted=own["is_interrupted"],
        )
    except (ValueError, KeyError, TypeError, IndexError) as problem:
        raise InvalidInput(
            f"{path.name}, line {number}: not a result of pdctl measure ({problem})."
        ) from problem


def _rows(found: dict[str, Any], own: dict[str, Any]) -> Iterator[Sent]:
    for row, index in enumerate(own["index"]):
        yield Sent(
            index=index,
            intended_s=found["start_times"][row],
            sent_s=own["sent_s"][row],
            end_s=own["end_s"][row],
            isl=found["input_lens"][row],
            osl=own["osl"][row],
            token_s=tuple(own["token_s"][row]),
            cached_tokens=own["cached_tokens"][row],
            error=found["errors"][row] or None,
        )


def _document(result: LoadResult, figures: LoadSummary) -> dict[str, object]:
    sent = result.sent
    whole = [one for one in sent if one.error is None]
    inputs, outputs = sum(one.isl for one in whole), sum(len(one.token_s) for one in whole)
    span_s = result.span_s or 1.0
    return {
        "tag": None,
        "backend": "sglang",
        "dataset_name": "pdctl",
        "request_rate": len(sent) / sent[-1].intended_s if sent and sent[-1].intended_s else None,
        "max_concurrency": result.concurrency,
        "duration": result.span_s,
        "completed": len(whole),
        "total_input_tokens": inputs,
        "total_output_tokens": outputs,
        "request_throughput": len(whole) / span_s,
        "input_throughput": inputs / span_s,
        "output_throughput": outputs / span_s,
        "total_throughput": (inputs + outputs) / span_s,
        **_milliseconds("e2e_latency", figures.e2e_s),
        **_milliseconds("ttft", figures.ttft_s),
        **_milliseconds("tpot", figures.tpot_s),
        **_milliseconds("itl", figures.itl_s),
        "input_lens": [one.isl for one in sent],
        "output_lens": [len(one.token_s) for one in sent],
        "ttfts": [one.ttft_s or 0.0 for one in sent],
        "itls": [_rounded([b - a for a, b in pairwise(one.token_s)]) for one in sent],
        "start_times": [one.intended_s for one in sent],
        "errors": [one.error or "" for one in sent],
        "pdctl": {
            "format": _FORMAT,
            "url": result.url,
            "started_at": result.started_at,
            "span_s": result.span_s,
            "cpu_s": result.cpu_s,
            "speed": result.speed,
            "connections": result.connections,
            "is_interrupted": result.is_interrupted,
            "index": [one.index for one in sent],
            "osl": [one.osl for one in sent],
            "sent_s": [one.sent_s for one in sent],
            "end_s": [one.end_s for one in sent],
            "token_s": [_rounded(one.token_s) for one in sent],
            "cached_tokens": [one.cached_tokens for one in sent],
        },
    }


def _rounded(seconds: Sequence[float]) -> list[float]:
    """Round to microseconds: measurements are no more precise, and files shrink to a third."""
    return [round(s, 6) for s in seconds]


def _predicted(forecast: Forecast) -> dict[str, object]:
    return {
        "at": forecast.at,
        "basis": forecast.basis,
        **_milliseconds("ttft", forecast.ttft_s),
        **_milliseconds("tpot", forecast.tpot_s),
    }


def _milliseconds(name: str, found: Percentiles | None) -> dict[str, float]:
    if found is None:
        return {}
    return {
        f"mean_{name}_ms": found.mean * 1e3,
        f"median_{name}_ms": found.p50 * 1e3,
        f"p90_{name}_ms": found.p90 * 1e3,
        f"p99_{name}_ms": found.p99 * 1e3,
    }
