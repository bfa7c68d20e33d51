"""Arrival patterns beyond Poisson. Pure."""

from pdctl.workload.records import Requests


def in_bursts(requests: Requests, size: int) -> Requests:
    """The same requests at the same mean rate, `size` of them at once.

    Each burst comes when its first request would have.
    """
    if size < 1:
        raise ValueError(f"a burst has at least one request, not {size}")
    times = requests.arrival_s
    return Requests(
        arrival_s=[times[n - n % size] for n in range(len(times))],
        isl=requests.isl,
        osl=requests.osl,
        blocks=requests.blocks,
        block_tokens=requests.block_tokens,
    )
