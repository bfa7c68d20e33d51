"""Results as files: one JSON line per run, in the form of sglang.bench_serving --output-details.

Its keys are there with its units, so its readers, and pdctl's own trace reader, take the file;
what they do not know (intended times, token times) is beside them and gives the run back whole.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from pdctl.errors import InvalidInput
from pdctl.measurement.records import Forecast, LoadResult, LoadSummary, Sent
from pdctl.measurement.summary import summary
from pdctl.perf_model.records import Percentiles

_FORMAT = 1


def write_result(path: Path, result: LoadResult, forecast: Forecast | None = None) -> None:
    """Append one run to a JSONL file, with what was predicted of it before it began."""
    document = _document(result, summary(result))
    if forecast is not None:
        document["pdctl_predicted"] = _predicted(forecast)
    line = json.dumps(document, allow_nan=False)
    with path.open("a", encoding="utf-8") as out:
        out.write(line + "\n")


def read_results(path: Path) -> list[LoadResult]:
    """The runs in a file that pdctl wrote.

    Raises InvalidInput naming the file and the line that is not such a run.
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
    """To microseconds: nothing here is known better, and files stay a third as large."""
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
