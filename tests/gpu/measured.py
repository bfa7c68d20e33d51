"""`pdctl measure` as a user types it: both arms of two GPUs on a real trace, one after the other.

    python -m tests.gpu.measured OUT MODEL --args '...' --transfer nixl
        [--trace FILE] [--rate 6] [--slo 500ms,7ms]

What it prints lies in measured.txt, its JSON lines in measured.jsonl.
"""

import threading
from functools import partial

from tests.gpu.rig import ENGINE_ARGS, Rig, options_of, rig, together

LOOK_AFTER_S = (60.0, 120.0, 170.0, 300.0, 360.0, 420.0)  # at what runs then


def main() -> None:
    """The run."""
    options = options_of(
        __doc__,
        trace="profiles/traces/conversation-40s.jsonl",
        rate="6",
        duration="60s",
        slo="500ms,7ms",
        gpus="0,1",
        total="2",
    )
    with rig(options) as run:
        together(run, [partial(_play, run)])


def _play(run: Rig) -> None:
    options = run.options
    ttft, tpot = options.slo.split(",")
    place = ["--gpus", options.gpus, "--args", f"{ENGINE_ARGS} {options.args}"]
    looks = [threading.Timer(after_s, _look, [run]) for after_s in LOOK_AFTER_S]
    for look in looks:
        look.daemon = True
        look.start()
    try:
        said = run.pdctl(
            *("measure", options.model, "--trace", options.trace, "--rate", options.rate),
            *("--duration", options.duration, "--total", options.total, "--prefill", "1"),
            *("--ttft", ttft, "--tpot", tpot, "--transfer-backend", options.transfer),
            *(["--engine", "sim"] if options.engine == "sim" else place),
            *("-o", str(run.out / "measured.jsonl")),
            log="measured",
        )
    finally:
        for look in looks:
            look.cancel()
    (run.out / "measured.txt").write_text(said)
    run.say(said)


def _look(run: Rig) -> None:
    run.say(run.pdctl("ls", log="looks").strip()[:400])


if __name__ == "__main__":
    main()
