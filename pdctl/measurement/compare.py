"""What was predicted beside what was measured. Pure."""

from dataclasses import dataclass
from typing import Literal

from pdctl.measurement.records import LoadResult, LoadSummary
from pdctl.measurement.summary import summary
from pdctl.measurement.window import COOL_DOWN, WARM_UP, window
from pdctl.perf_model.metrics import attainment, goodput_rps, percentiles
from pdctl.perf_model.records import Outcome, Percentiles
from pdctl.workload.records import Requests, Slo

Unit = Literal["s", "tokens/s", "requests/s", "share"]


@dataclass(frozen=True)
class Compared:
    """One figure, predicted and measured. None: not known. error: relative to the measured one."""

    figure: str  # "ttft p50", "goodput"
    unit: Unit
    predicted: float | None
    measured: float | None

    @property
    def error(self) -> float | None:
        if self.predicted is None or not self.measured:
            return None
        return (self.predicted - self.measured) / self.measured

    def is_within(self, share: float) -> bool | None:
        """Whether prediction and measurement agree to `share`; None: cannot be told."""
        return None if self.error is None else abs(self.error) <= share


def compare(
    predicted: Outcome, measured: LoadSummary, slo: Slo | None = None
) -> tuple[Compared, ...]:
    """Each figure that both sides have, in the order people read them.

    predicted: of the same requests at the same arrival times, in the same window (see `windowed`);
    near saturation the arrivals decide more than the model does.
    """
    span_s = predicted.span_s
    rows = [
        *_spread("ttft", percentiles(predicted.ttft_s), measured.ttft_s),
        *_spread("tpot", percentiles(predicted.tpot_s), measured.tpot_s),
        *_spread("e2e", percentiles(predicted.e2e_s), measured.e2e_s),
        Compared(
            "output tokens",
            "tokens/s",
            predicted.output_tokens / span_s if span_s > 0 else None,
            measured.output_tokens_per_s,
        ),
    ]
    if slo is not None and slo.is_given:
        share, rps = attainment(predicted, slo), goodput_rps(predicted, slo)
        rows.append(Compared("attainment", "share", share, measured.attainment))
        rows.append(Compared("goodput", "requests/s", rps, measured.goodput_rps))
    return tuple(rows)


def windowed(
    outcome: Outcome, requests: Requests, *, warm_up: float = WARM_UP, cool_down: float = COOL_DOWN
) -> Outcome:
    """A simulated outcome without the requests that a measurement's summary leaves out."""
    if not len(requests):
        return outcome
    start_s, end_s = window(requests.arrival_s, warm_up, cool_down)
    inside = [n for n, at_s in enumerate(requests.arrival_s) if start_s <= at_s <= end_s]
    answered = [n for n in inside if outcome.e2e_s[n] is not None]
    return Outcome(
        ttft_s=[outcome.ttft_s[n] for n in inside],
        tpot_s=[outcome.tpot_s[n] for n in inside],
        e2e_s=[outcome.e2e_s[n] for n in inside],
        span_s=end_s - start_s,
        output_tokens=sum(requests.osl[n] for n in answered),
        kv_usage_peak=outcome.kv_usage_peak,
        num_retracted=outcome.num_retracted,
        num_rejected=len(inside) - len(answered),
        queues=outcome.queues,
    )


def as_played(result: LoadResult, requests: Requests) -> Requests:
    """The requests at the times they really were meant to go, for predicting the same run.

    result: of a closed or an open loop; requests: what was asked for, with its prefixes.
    """
    sent = sorted(result.sent, key=lambda one: one.intended_s)
    order = [one.index for one in sent]
    return Requests(
        arrival_s=[one.intended_s for one in sent],
        isl=[requests.isl[n] for n in order],
        osl=[requests.osl[n] for n in order],
        blocks=None if requests.blocks is None else [requests.blocks[n] for n in order],
        block_tokens=requests.block_tokens,
    )


def compare_run(
    predicted: Outcome, result: LoadResult, requests: Requests, slo: Slo | None = None
) -> tuple[Compared, ...]:
    """`compare` of a simulation of `requests` with a run of them, both in the same window."""
    return compare(windowed(predicted, requests), summary(result, slo), slo)


def _spread(
    name: str, predicted: Percentiles | None, measured: Percentiles | None
) -> list[Compared]:
    rows = []
    for field in ("mean", "p50", "p90", "p99"):
        rows.append(
            Compared(
                f"{name} {field}",
                "s",
                getattr(predicted, field) if predicted else None,
                getattr(measured, field) if measured else None,
            )
        )
    return rows
