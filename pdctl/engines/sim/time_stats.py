"""The log line per request that SGLang writes with --enable-request-time-stats-logging."""

from collections.abc import Callable

from pdctl.engines.sim.requests import Moment, Request
from pdctl.perf_model.records import Role

_TYPES: dict[Role, str] = {"colocated": "unified", "prefill": "prefill", "decode": "decode"}


def time_stats_line(
    request: Request,
    role: Role,
    end_s: float,
    *,
    speed: float,
    unix_s: Callable[[float], float],
    kv_bytes: float,
) -> str:
    """The line of a request that ended at `end_s`, a time on the engine's clock.

    Args:
        speed: model seconds per real second; the line has real ones.
        unix_s: converts a time on the engine's clock.
        kv_bytes: sent by a prefill engine.

    Source: Req.log_time_stats and convert_to_duration of SGLang 0.5.23.
    """

    def ms(start: Moment, end: Moment | None) -> str:
        until_s = end_s if end is None else request.moments.get(end, end_s)
        return f"{(until_s - request.moments.get(start, until_s)) / speed * 1e3:.2f}ms"

    entry = f"entry_time={unix_s(request.moments['entry']):.3f}"
    forward = f"forward_duration={ms('started', None)}"
    if role == "decode":
        durations = (
            f"bootstrap_duration={ms('entry', 'bootstrapped')}, "
            f"alloc_wait_duration={ms('bootstrapped', 'allocated')}, "
            f"transfer_duration={ms('allocated', 'transferred')}, "
            f"queue_duration={ms('transferred', 'started')}, {forward}, {entry}"
        )
    elif role == "prefill":
        sent_s = (end_s - request.moments.get("computed", end_s)) / speed
        gib_per_s = kv_bytes / sent_s / 2**30 if sent_s > 0 else 0.0
        durations = (
            f"bootstrap_duration={ms('entry', 'bootstrapped')}, "
            f"queue_duration={ms('bootstrapped', 'started')}, {forward}, {entry}, "
            f"transfer_speed={gib_per_s:.2f} GB/s, transfer_total={kv_bytes / 2**20:.2f} MB"
        )
    else:
        durations = f"queue_duration={ms('entry', 'started')}, {forward}, {entry}"
    room = "" if request.room is None else f"bootstrap_room={request.room}, "
    return (
        f"ReqTimeStats(rid={request.rid}, {room}input_len={request.prompt_tokens}, "
        f"cached_input_len={request.cached_tokens}, output_len={request.out}, attempts=0, "
        f"type={_TYPES[role]}): {durations}"
    )
