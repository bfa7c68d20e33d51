"""Predicted against measured with real SGLang on the CPU: calibrate, then loads. Not a test.

python -m tests.real_engine.predicted [--layers 8] [--hidden 512] [--rates 1,2] [--keep DIR]

One colocated engine, then one prefill and one decode engine, each calibrated while idle and then
measured at every rate with the profile of its own steps alone. Wants a machine that does nothing
else: the engines take a core each. The model is made as the tests' one, only larger, so that
its steps take longer than what a client and Linux add. Prints a table, and the profiles' errors.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pdctl.measurement.results import read_results, summary
from tests.real_engine.installed import PYTHON
from tests.real_engine.loopback import loopback_only
from tests.real_engine.test_real_engine import COLOCATED, ROUTER, Real, split

LAYOUTS: Mapping[str, Mapping[str, Any]] = {"1C": COLOCATED, "1P1D": split()}


def make_model(folder: Path, layers: int, hidden: int) -> Path:
    """The tests' model with other sizes."""
    model = folder / "model"
    maker = Path(__file__).with_name("make_model.py")
    sizes = (f"--layers={layers}", f"--hidden={hidden}")
    subprocess.run([str(PYTHON), str(maker), str(model), *sizes], check=True)
    return model


def rows(real: Real, layout: str, roles: Mapping[str, Any], given: Any) -> Iterator[str]:
    """Start it, calibrate it, load it, stop it."""
    state = real.up(layout.lower(), roles)["data"]
    sys.stderr.write(f"{layout}: up\n")
    urls = [p["url"] for p in state["processes"] if p["role"] != "router"]
    profile = real.folder / f"{layout}.json"
    from_urls = [word for url in urls for word in ("--url", url)]
    steps = ("--steps", str(real.folder / f"{layout}-steps.jsonl"), "--budget", given.budget)
    found = real.pdctl("calibrate", *from_urls, "-o", str(profile), *steps)["data"]["profile"]
    sys.stderr.write(f"{layout}: calibrated, left-out error {found['left_out_error']:.3f}\n")
    for rate in given.rates.split(","):
        kept = real.folder / f"{layout}-{rate}.jsonl"
        load = (
            "--isl",
            given.isl,
            "--osl",
            given.osl,
            "--rate",
            rate,
            "--duration",
            given.duration,
        )
        real.pdctl("measure", "--target", ROUTER, *load, "--profile", str(profile), "-o", str(kept))
        yield row(layout, rate, kept)
    real.pdctl("down", layout.lower())


def row(layout: str, rate: str, kept: Path) -> str:
    """One line of the table."""
    told = json.loads(kept.read_text().splitlines()[-1])["pdctl_predicted"]
    seen = summary(read_results(kept)[-1])
    cells = [layout, f"{rate} /s"]
    for name, measured in (("ttft", seen.ttft_s), ("tpot", seen.tpot_s)):
        assert measured is not None
        predicted_ms, measured_ms = told[f"median_{name}_ms"], 1e3 * measured.p50
        share = predicted_ms / measured_ms - 1
        cells += [f"{predicted_ms:.4g} → {measured_ms:.4g} ms", f"{share:+.0%}"]
    return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--layers", type=int, default=8)
    options.add_argument("--hidden", type=int, default=512)
    options.add_argument("--isl", default="300")
    options.add_argument("--osl", default="32")
    options.add_argument("--rates", default="1,2")
    options.add_argument("--layouts", default=",".join(LAYOUTS))
    options.add_argument("--duration", default="60s")
    options.add_argument("--budget", default="4min")
    options.add_argument("--keep", type=Path, help="a folder for profiles, steps and loads")
    given = options.parse_args(arguments)
    with loopback_only(), tempfile.TemporaryDirectory() as scratch:
        folder = given.keep or Path(scratch)
        folder.mkdir(exist_ok=True)
        real = Real(folder, make_model(folder, given.layers, given.hidden))
        try:
            sys.stdout.write("| | rate | TTFT p50 | off | TPOT p50 | off |\n| --- |" + " --- |" * 5)
            for layout in given.layouts.split(","):
                for line in rows(real, layout, LAYOUTS[layout], given):
                    sys.stdout.write(f"\n{line}")
                    sys.stdout.flush()
            sys.stdout.write("\n")
        finally:
            for process in real.processes():
                process.kill()


if __name__ == "__main__":
    main()
