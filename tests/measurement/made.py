"""Hand-made requests and results."""

from pdctl.measurement.results import LoadResult, Sent


def sent(
    index: int = 0,
    *,
    at_s: float = 0.0,
    tokens: tuple[float, ...] = (0.1, 0.2, 0.3),
    late_s: float = 0.0,
    osl: int | None = None,
    error: str | None = None,
    cached: int | None = None,
) -> Sent:
    """A request whose tokens arrive this many seconds after its intended time."""
    token_s = tuple(at_s + t for t in tokens)
    return Sent(
        index=index,
        intended_s=at_s,
        sent_s=at_s + late_s,
        end_s=token_s[-1] if token_s else at_s + 1.0,
        isl=100,
        osl=len(tokens) if osl is None else osl,
        token_s=token_s,
        cached_tokens=cached,
        error=error,
    )


def result(*rows: Sent) -> LoadResult:
    return LoadResult(
        url="http://127.0.0.1:1",
        sent=rows,
        started_at=1_700_000_000.0,
        span_s=max((one.end_s for one in rows), default=0.0),
        cpu_s=0.5,
    )
