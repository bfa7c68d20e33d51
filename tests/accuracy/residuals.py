"""Write profiles/residuals.json: what predictions of measured runs were off by. Not a test.

python -m tests.accuracy.residuals POINTS.json [--models DIR]

The public points (as in public_points.py) and the loads of tests/data, whose engines have profiles.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pdctl.inspection.cluster import parse_gpus
from pdctl.inspection.llm import read_llm
from pdctl.paths import profiles_dir
from pdctl.perf_model.engine_model import engine_model
from pdctl.perf_model.intervals import model_kind, slow_host
from pdctl.perf_model.records import Fleet, Parallelism, Serving
from pdctl.perf_model.residuals import FILE, RARE_FIELDS, Residual, region_of
from tests.accuracy.public_points import Errors, closed_loop, errors_of, given_points, points_parser
from tests.gpu.foretold import RELEASE, figures_ms, prefill_sizes
from tests.gpu.kinds import Kind, kinds
from tests.gpu.shapes import write_shapes
from tests.perf_model.loads import Load, figures, fleet_of, loads, replay

GPU_DATA = Path(__file__).parents[1] / "data" / "gpu"
KINDS_GPU = "H200"
NOTES = (
    "log(measured / predicted) of public runs (InferenceX and genai-perf, from the samples in "
    "aiconfigurator-core 0.12.0, Apache-2.0) and of this project's own loads; made by "
    "python -m tests.accuracy.residuals"
)


def of_points(found: Sequence[Errors]) -> Iterator[Residual]:
    """The public points; few of their GPUs have a profile."""
    for errors in found:
        yield Residual(
            configuration=errors.configuration,
            kind=errors.kind,
            gpu=errors.group[1],
            fitted=errors.fitted,
            relative=errors.relative,
            closed=True,
            region=region_of(errors.running),
            ttft=round(-math.log1p(errors.signed_ttft), 4),
            tpot=round(-math.log1p(errors.signed_tpot), 4),
            e2e=round(-math.log1p(errors.signed_e2e), 4),
        )


def of_loads() -> Iterator[Residual]:
    """Our own loads, replayed with the profile of their GPU and family."""
    for load in (*loads("H200"), *loads("H100")):
        measured, ours = figures(load.measured), figures(replay(load))
        engines = sum(int(n) for n in load.layout.replace("C", "").replace("D", "").split("P"))
        running = load.rate * (load.osl * ours["tpot p50"] / 1e3) / engines
        e2e = [f["ttft p50"] + (load.osl - 1) * f["tpot p50"] for f in (measured, ours)]
        yield Residual(
            configuration=f"{load.llm} {load.gpu} {load.layout} {load.host}",
            kind=model_kind(read_llm(load.llm)),
            gpu=load.gpu,
            fitted=True,
            region=region_of(running),
            ttft=round(math.log(measured["ttft p50"] / ours["ttft p50"]), 4),
            tpot=round(math.log(measured["tpot p50"] / ours["tpot p50"]), 4),
            e2e=round(math.log(e2e[0] / e2e[1]), 4),
            launched=is_launched(load),
        )


def is_launched(load: Load) -> bool:
    """Would a host that launches kernels more slowly make the load's prompts late?"""
    fleet = fleet_of(load)
    engine = fleet.prefill or fleet.colocated
    return engine is not None and slow_host(engine.times, load.isl, is_known=False) > 1


def of_kinds() -> Iterator[Residual]:
    """Loads of engines that no term was fitted to, by the roofline alone.

    Not of engines that speculate, which the predictions do not count.
    """
    plans = sorted((GPU_DATA / "plans").glob("*.json"))
    known = {kind.name: kind for plan in plans for track in kinds(plan) for kind in track}
    with TemporaryDirectory() as folder:
        write_shapes(Path(folder))
        for line in (GPU_DATA / "steps.jsonl").read_text().splitlines():
            row = json.loads(line)
            kind = known.get(row["kind"])
            if kind is not None and "speculative" not in kind.args:
                for load in row.get("loads", ()):
                    yield _of_kind(kind, Path(folder), row["host"], load)


def _of_kind(kind: Kind, models: Path, host: str, load: dict[str, Any]) -> Residual:
    llm, tp = read_llm(str(models / kind.model)), len(kind.gpus.split(","))
    engine = engine_model(
        llm,
        parse_gpus(f"{tp}x{KINDS_GPU}"),
        Parallelism(tp=tp),
        "colocated",
        serving=Serving(
            attention_backend="triton", release=RELEASE, prefill_sizes=prefill_sizes(kind)
        ),
    )
    rate, _, osl, _ = load["load"]
    ours = figures_ms(Fleet(colocated=engine, num_colocated=1), tuple(load["load"]))
    names = ("ttft p50", "tpot p50")
    measured = {name: load[name][1] for name in names}
    e2e = [f["ttft p50"] + (osl - 1) * f["tpot p50"] for f in (measured, ours)]
    ttft, tpot = (round(math.log(measured[name] / ours[name]), 4) for name in names)
    return Residual(
        configuration=f"{kind.model} {KINDS_GPU} {tp} {host}",
        kind=model_kind(llm),
        gpu=KINDS_GPU,
        fitted=False,
        region=region_of(rate * e2e[1] / 1e3),
        ttft=ttft,
        tpot=tpot,
        e2e=round(math.log(e2e[0] / e2e[1]), 4),
    )


def _row(residual: Residual) -> dict[str, object]:
    fields = asdict(residual).items()
    return {name: value for name, value in fields if name not in RARE_FIELDS or value}


def main(argv: Sequence[str] | None = None) -> None:
    """Write the file."""
    options = points_parser(__doc__)
    points, models = given_points(options.parse_args(argv))
    measured = of_points(errors_of(points, models, closed_loop, with_flags=True))
    found = [*measured, *of_loads(), *of_kinds()]
    rows = [json.dumps(_row(residual)) for residual in found]
    text = json.dumps({"_notes": NOTES})[:-1] + ', "residuals": [\n' + ",\n".join(rows) + "\n]}\n"
    (profiles_dir() / FILE).write_text(text)


if __name__ == "__main__":
    main()
