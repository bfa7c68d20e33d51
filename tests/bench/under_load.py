"""A steady load in the background while something happens to a deployment."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pdctl.measurement.load import run_load
from pdctl.measurement.results import Sent
from pdctl.workload.records import Requests

PIECE_S = 5.0


@dataclass
class Load:
    """What was sent so far. started_at: the monotonic clock at its begin."""

    url: str
    rate_rps: float
    isl: int
    osl: int
    token_ids: tuple[int, int]
    started_at: float = 0.0
    sent: list[tuple[float, Sent]] = field(default_factory=list)  # with its piece's begin
    is_over: bool = False

    @property
    def failed(self) -> list[tuple[float, Sent]]:
        """Requests that ended with an error or before their last token."""
        return [(at, one) for at, one in self.sent if one.error or len(one.token_s) != self.osl]

    async def run(self) -> None:
        """One piece after the other, each begun on time whether or not the last has ended."""
        tasks = []
        piece = 0
        while not self.is_over:
            tasks.append(asyncio.create_task(self._piece(piece)))
            piece += 1
            wait_s = self.started_at + piece * PIECE_S - time.monotonic()
            await asyncio.sleep(max(0.0, wait_s))
        await asyncio.gather(*tasks)

    async def _piece(self, number: int) -> None:
        num = round(PIECE_S * self.rate_rps)
        requests = Requests(
            arrival_s=[i / self.rate_rps for i in range(num)],
            isl=[self.isl] * num,
            osl=[self.osl] * num,
        )
        begin = time.monotonic()
        await run_load(
            self.url,
            requests,
            on_sent=lambda one: self.sent.append((begin, one)),
            token_ids=self.token_ids,
            timeout_s=300,
            seed=number,
        )


@contextmanager
def under_load(
    url: str,
    rate_rps: float,
    *,
    isl: int = 128,
    osl: int = 16,
    token_ids: tuple[int, int] = (100, 30000),
) -> Iterator[Load]:
    """Requests at an even rate while the block runs; all have ended after it."""
    load = Load(url, rate_rps, isl, osl, token_ids, started_at=time.monotonic())
    thread = threading.Thread(target=lambda: asyncio.run(load.run()))
    thread.start()
    try:
        yield load
    finally:
        load.is_over = True
        thread.join()
