"""A profile from measured steps, once more with the model as it is now.

    python -m tests.gpu.refit profiles/measured/NAME.json [STEPS.jsonl ...] [--date DAY] > NEW.json

Keeps what the profile says of itself; STEPS, of `pdctl calibrate --steps`, are fitted beside.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from pdctl.inspection.cluster import parse_gpus
from pdctl.inspection.llm import read_llm
from pdctl.perf_model.fitting.identify import fit_identified, typical
from pdctl.perf_model.fitting.profiles import calibrated_profile, profile_text
from pdctl.perf_model.records import Measurement, Parallelism
from pdctl.perf_model.roofline import step_times


def main() -> None:
    """Fit and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("profile", type=Path)
    parser.add_argument("steps", type=Path, nargs="*")
    parser.add_argument("--date")
    parser.add_argument("--command")
    options = parser.parse_args()
    kept: dict[str, Any] = json.loads(options.profile.read_text())
    rows = kept["measurements"]
    rows += [json.loads(line) for path in options.steps for line in path.open()]
    steps = [Measurement(**{k: v for k, v in row.items() if k != "residual"}) for row in rows]
    llm, parallelism = read_llm(kept["llm"]), Parallelism(**kept["parallelism"])
    roofline = step_times(
        llm,
        parse_gpus(f"{parallelism.num_gpus}x{kept['gpu']}"),
        parallelism,
        "colocated",
        attention_backend=kept["attention_backend"],
    )
    measurements = typical(steps)
    fit, unidentified = fit_identified(measurements, roofline)
    assert fit is not None
    profile = calibrated_profile(
        measurements,
        fit,
        roofline,
        llm,
        gpu=kept["gpu"],
        parallelism=parallelism,
        engine=kept["engine"],
        attention_backend=kept["attention_backend"],
        date=options.date or kept["date"],
        command=options.command or kept["command"],
    )
    sys.stderr.write(f"left-out error {fit.left_out_error:.4f}, roofline: {unidentified}\n")
    sys.stdout.write(profile_text(replace(profile, id=options.profile.stem)))


if __name__ == "__main__":
    main()
