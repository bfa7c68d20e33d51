"""What the supervisor's replays cost: 8 simulated engines whose logs hold 10 requests a second."""

import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from pdctl.engines import state
from pdctl.engines.supervision.side_processes import pause_s, run_at_low_priority
from pdctl.measurement.live_what_if import WINDOW_S
from pdctl.paths import HOME_VARIABLE
from pdctl.status.what_if_file import kept_what_if
from tests.e2e.cli import free_port

NAME, RATE_RPS, NUM_PREFILL, NUM_DECODE = "bench", 10.0, 2, 6
PD_YAML = f"""schema: 1
name: {NAME}
model: phi-4
engine: sim
gpus: 8xL40S
prefill: {{engines: {NUM_PREFILL}}}
decode: {{engines: {NUM_DECODE}}}
observe: {{what_if: false}}
slo: {{ttft: 3s, tpot: 60ms}}
"""
PDCTL = (sys.executable, "-m", "pdctl")


def measure() -> list[tuple[str, float, float, str]]:
    """Rows of (what, measured, limit, unit)."""
    with tempfile.TemporaryDirectory() as home:
        os.environ[HOME_VARIABLE] = home
        (file := Path(home) / "pd.yaml").write_text(PD_YAML)
        port = str(free_port())
        up = (*PDCTL, "up", "-f", str(file), "-d", "--no-input", "--port", port)
        subprocess.run(up, check=True, capture_output=True)
        try:
            _write_logs(time.time())
            used_s = run_at_low_priority(
                [sys.executable, "-m", "pdctl.measurement.live_what_if", NAME]
            )
            look, mib = kept_what_if(NAME), _largest_child_mib()
        finally:
            subprocess.run((*PDCTL, "down", NAME), check=True, capture_output=True)
    assert look is not None
    assert len(look.alternatives) == NUM_PREFILL + NUM_DECODE - 1  # and colocated
    share = used_s / (used_s + pause_s(used_s))
    requests = f"{look.num_requests} requests"
    return [
        (f"a what-if of 8 engines, {requests}, CPU", used_s, 9, "s"),
        ("what-ifs of 8 engines at 10 requests/s, of a core", share * 100, 5, "%"),
        ("a what-if of 8 engines, memory at most", mib, 100, "MiB"),
    ]


def _largest_child_mib() -> float:
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def _write_logs(now_s: float) -> None:
    """The lines of the requests of two windows, in the logs of a deployment that is older."""
    launch = state.state_dir(NAME) / "launch.json"
    os.utime(launch, (now_s - 3600, now_s - 3600))
    with_times = list(_lines(now_s))
    for engine in {engine for engine, _ in with_times}:
        with (state.logs_dir(NAME) / f"{engine}.log").open("a") as log:
            log.writelines(line for name, line in with_times if name == engine)


def _lines(now_s: float) -> Iterator[tuple[str, str]]:
    """(engine, line) of both halves of every request."""
    rnd, at_s, room = random.Random(1), now_s - 2 * WINDOW_S, 1
    while (at_s := at_s + rnd.expovariate(RATE_RPS)) < now_s - 20:
        isl, osl = 1 + int(rnd.gammavariate(2, 500)), 2 + int(rnd.gammavariate(2, 75))
        stamp = f"[{datetime.fromtimestamp(at_s + 10):%Y-%m-%d %H:%M:%S}] "
        head = f"ReqTimeStats(rid=r{room}, bootstrap_room={room}, input_len={isl}, "
        sent_ms, out_ms = isl / 20, osl * 25.0
        entry = f"entry_time={at_s:.3f}"
        yield (
            f"prefill-{room % NUM_PREFILL}",
            f"{stamp}{head}cached_input_len=0, output_len=1, attempts=0, type=prefill): "
            f"bootstrap_duration=1.00ms, queue_duration=40.00ms, "
            f"forward_duration={sent_ms:.2f}ms, {entry}, transfer_speed=2.00 GB/s, "
            f"transfer_total={isl / 10:.2f} MB\n",
        )
        yield (
            f"decode-{room % NUM_DECODE}",
            f"{stamp}{head}cached_input_len=0, output_len={osl}, attempts=0, type=decode): "
            f"bootstrap_duration=1.00ms, alloc_wait_duration=1.00ms, "
            f"transfer_duration={sent_ms + 45:.2f}ms, queue_duration=1.00ms, "
            f"forward_duration={out_ms:.2f}ms, {entry}\n",
        )
        room += 1
