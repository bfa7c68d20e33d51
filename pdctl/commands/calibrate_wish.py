"""What `calibrate` was asked for, and what each way of doing it needs."""

import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pdctl.inspection.records import Cluster
    from pdctl.measurement.calibrated import Calibration
    from pdctl.measurement.engine_facts import EngineFacts
    from pdctl.perf_model.records import Measurement


@dataclass(frozen=True)
class Wish:
    """What `calibrate` was asked for. sizes: tp, pp, dp, ep."""

    model: str
    sizes: tuple[int, int, int, int]
    engine: str
    urls: tuple[str, ...]
    transfer: bool
    gpus: str
    args: str
    decode_args: str
    transfer_backend: str
    python: str | None
    sim_speed: float
    budget_s: float
    from_urls: tuple[str, ...]
    window_s: float
    from_logs: tuple[Path, ...]
    output: Path | None
    earlier: str
    steps: Path | None
    timeout_s: float
    no_input: bool


def kept(found: "Calibration", output: Path | None) -> "Calibration":
    """The calibration with its profile in a file, unless it disagrees with itself.

    Those of simulated engines lie apart, where `plan` does not look.
    """
    from dataclasses import replace

    from pdctl.inspection.profiles_dir import user_profiles_dir
    from pdctl.measurement.calibrated import keep, keep_as

    if found.disagreements:
        return found
    if output is not None:
        profile, file = keep_as(found.profile, output)
    else:
        home = user_profiles_dir()
        profile, file = keep(found.profile, home / "simulated" if found.is_simulated else home)
    return replace(found, profile=profile, file=file)


@contextmanager
def step_log(path: Path | None) -> "Iterator[Callable[[Measurement], None]]":
    """Appends measured steps to a JSONL file as they come, so that they outlast what fails."""
    from pdctl.perf_model.profiles import measurement_line

    if path is None:
        yield lambda step: None
        return
    with path.open("a", encoding="utf-8") as out:

        def keep(step: "Measurement") -> None:
            out.write(f"{measurement_line(step)}\n")
            out.flush()

        yield keep


def cluster_of(gpus: str, facts: "EngineFacts") -> "Cluster":
    """The GPUs an engine runs on: as named, as it says, or as found here."""
    from pdctl.inspection.cluster import detect_cluster, parse_gpus
    from pdctl.inspection.cpu import cpu_cluster

    if gpus and not gpus.replace(",", "").replace("-", "").isdecimal():
        return parse_gpus(gpus)
    if facts.device == "cpu":
        return cpu_cluster()
    if facts.accelerator:
        return parse_gpus(f"{facts.parallelism.num_gpus}x{facts.accelerator}")
    return detect_cluster()


def command_line() -> str:
    """This command, to do it again."""
    import shlex

    return shlex.join(["pdctl", *sys.argv[1:]])[:2000]
