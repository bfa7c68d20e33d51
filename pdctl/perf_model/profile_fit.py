"""A Profile from the measured steps of one engine."""

from collections.abc import Sequence

from pdctl.inspection.records import Cluster, Llm
from pdctl.perf_model.calibrated import calibrated_profile
from pdctl.perf_model.calibration import fit
from pdctl.perf_model.records import Measurement, Parallelism, Profile
from pdctl.perf_model.roofline import step_times


def profile_from(
    measurements: Sequence[Measurement],
    llm: Llm,
    cluster: Cluster,
    parallelism: Parallelism,
    *,
    engine: str,
    attention_backend: str,
    date: str,
    command: str,
    prefill_graphs: bool = True,
) -> Profile:
    """The profile of what was measured on one engine of this shape.

    date: ISO day. command: how to measure it again. Raises as fit() does.
    """
    roofline = step_times(
        llm,
        cluster,
        parallelism,
        "colocated",
        attention_backend=attention_backend,
        prefill_graphs=prefill_graphs,
    )
    return calibrated_profile(
        measurements,
        fit(measurements, roofline),
        roofline,
        llm,
        gpu=cluster.gpu.name,
        parallelism=parallelism,
        engine=engine,
        attention_backend=attention_backend,
        date=date,
        command=command,
    )
