"""The records of a load: one per request, the whole run, and its summary."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pdctl.perf_model.records import Percentiles

Connections = Literal["kept", "new"]


@dataclass(frozen=True)
class Sent:
    """One request as the client saw it. Times are seconds since the load began.

    intended_s: when it should have been sent; latencies count from here, so that a generator
        that falls behind makes latencies longer, never shorter.
    token_s: when each output token came; tokens of one read came at one time.
    """

    index: int
    intended_s: float
    sent_s: float
    end_s: float
    isl: int
    osl: int  # asked for
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
        """Mean time per token after the first; 0 for a single one."""
        if not self.token_s:
            return None
        return (self.token_s[-1] - self.token_s[0]) / max(len(self.token_s) - 1, 1)

    @property
    def e2e_s(self) -> float | None:
        return self.end_s - self.intended_s if self.error is None else None

    @property
    def is_truncated(self) -> bool:
        """It ended without an error and with fewer tokens than asked for."""
        return self.error is None and len(self.token_s) < self.osl

    @property
    def is_whole(self) -> bool:
        return self.error is None and not self.is_truncated


@dataclass(frozen=True)
class LoadResult:
    """A load that was played, by request in order of intended time.

    started_at: Unix seconds. cpu_s: what the generator itself used. is_interrupted: not all that
    was asked for was sent.
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
    """What was predicted of a load before it began. at: Unix seconds.

    basis: the profile its step times came from, or "roofline". Percentiles of the same window
    of requests as LoadSummary's.
    """

    at: float
    basis: str
    ttft_s: Percentiles | None
    tpot_s: Percentiles | None


@dataclass(frozen=True)
class LoadProgress:
    """A load while it is played. Percentiles are of what has ended so far; None: nothing yet."""

    at_s: float
    num_requests: int
    num_sent: int
    num_done: int
    num_failed: int
    ttft_s: Percentiles | None
    tpot_s: Percentiles | None


@dataclass(frozen=True)
class LoadSummary:
    """A load in figures, of the requests inside the window alone.

    window_s: first and last intended time that counts; warm-up and cool-down are outside.
    rates: per second of the window. attainment, goodput_rps: None without service levels.
    """

    window_s: tuple[float, float]
    num_requests: int
    num_failed: int
    num_truncated: int
    errors: Mapping[str, int]  # message -> how many
    ttft_s: Percentiles | None
    tpot_s: Percentiles | None
    itl_s: Percentiles | None
    e2e_s: Percentiles | None
    lateness_s: Percentiles | None
    requests_per_s: float
    input_tokens_per_s: float
    output_tokens_per_s: float
    cached_share: float | None  # of prompt tokens, as the engines reported
    attainment: float | None
    goodput_rps: float | None
    cpu_s_per_token: float | None
    is_generator_late: bool  # the generator is the bottleneck: do not trust the figures
