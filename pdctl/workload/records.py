"""The records of workload: requests, what is known of them in the mean, and the SLO."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Requests:
    """Requests in arrival order, as columns of equal length.

    arrival_s: seconds since the first, never decreasing.
    blocks: per request the ids of its prompt's blocks of `block_tokens` tokens, the last one
        partial; equal leading ids mean a shared prefix. None: prefix reuse is unknown.
    """

    arrival_s: Sequence[float]
    isl: Sequence[int]
    osl: Sequence[int]
    blocks: Sequence[tuple[int, ...]] | None = None
    block_tokens: int = 0

    def __len__(self) -> int:
        return len(self.isl)


def longest_request(room_tokens: int) -> int:
    """Tokens that prompt and output may come to in a context, or a KV cache, of so many tokens.

    Longer output is cut. A prompt that is as long by itself is refused.
    Source: SGLang's max_req_len is one less than the room, and init_req_max_new_tokens leaves one
    more unused.
    """
    return room_tokens - 2


@dataclass(frozen=True)
class Lengths:
    """The distribution of a length in tokens. cv: standard deviation over mean."""

    mean: float
    p50: float
    p90: float
    p99: float
    cv: float
    share_under_1k: float
    share_from_4k: float


@dataclass(frozen=True)
class Burstiness:
    """The unevenness of the arrivals, from counts in 60 s bins.

    dispersion: variance over mean of the counts; 1 is Poisson.
    peak_over_mean: the busiest minute over the mean minute.
    """

    dispersion: float
    peak_over_mean: float


@dataclass(frozen=True)
class Mix:
    """A mix of requests, however many a second. None means unknown, never zero."""

    isl: Lengths | None
    osl: Lengths | None
    prefix_hit: float | None  # share of prompt tokens found in an unlimited cache, 0..1
    burstiness: Burstiness | None
    requests: Requests | None
    origin: str = "flags"  # or the trace's file name
    columns: tuple[str, ...] = ()  # what was found in the file, for the user to check
    skipped_lines: int = 0
    has_arrivals: bool = True  # False: `requests` are lengths from a file without times
    trace: "TraceFacts | None" = None  # None: the requests are from no file


@dataclass(frozen=True, kw_only=True)
class Workload(Mix):
    """The load of a deployment: a mix of requests, and how many of them.

    narrowed_to: the context in tokens for which lengths spread less than they usually do.
    """

    rate_rps: float | None
    concurrency: float | None
    narrowed_to: int | None = None


@dataclass(frozen=True)
class Slo:
    """Service levels of one request; a request is good when it meets all that are given.

    attainment: the share of requests that must be good, 0..1.
    """

    ttft_s: float | None = None
    tpot_s: float | None = None
    attainment: float = 0.9

    @property
    def is_given(self) -> bool:
        return self.ttft_s is not None or self.tpot_s is not None


@dataclass(frozen=True)
class TraceFacts:
    """The contents of a trace file and how they were read, for every output to show.

    Fields as Trace has them. span_s: of the file's own times; None without any.
    """

    num_requests: int
    span_s: float | None
    columns: tuple[str, ...]
    time_unit: str | None
    unused_columns: tuple[str, ...]
    num_broken: int
    num_failed: int
    num_aborted: int
    notes: tuple[str, ...]
    is_unit_given: bool = False
    filled_osl: int | None = None


@dataclass(frozen=True)
class Trace:
    """A trace file as read.

    columns: those that were taken, with their units, for the user to check.
    skipped_lines: num_broken lines (with --skip-bad), num_failed requests without output, and
        num_aborted ones, all of which are left out.
    has_arrivals: False for a file of lengths only; then every arrival_s is 0.
    time_unit: s, ms, us, ns, days or date; None without arrivals or where all are one instant.
    notes: what was assumed, and what looks wrong, as sentences.
    is_unit_given: --time-unit said the unit. filled_osl: output tokens that --osl gave to requests
        without.
    """

    requests: Requests
    columns: tuple[str, ...]
    skipped_lines: int
    has_arrivals: bool
    time_unit: str | None = None
    unused_columns: tuple[str, ...] = ()
    num_broken: int = 0
    num_failed: int = 0
    num_aborted: int = 0
    notes: tuple[str, ...] = ()
    is_unit_given: bool = False
    filled_osl: int | None = None
