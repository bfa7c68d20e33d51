"""A Profile from the measured steps of one engine."""

from collections.abc import Sequence

from pdctl.inspection.llm_size import num_params
from pdctl.inspection.records import Cluster, Llm
from pdctl.perf_model.calibration import fit
from pdctl.perf_model.profiles import family, profile_id
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
    found = fit(measurements, roofline)
    shape = family(llm)
    return Profile(
        id=profile_id(cluster.gpu.name, shape, engine, attention_backend),
        gpu=cluster.gpu.name,
        family=shape,
        architecture=llm.architecture,
        llm=llm.name,
        engine=engine,
        attention_backend=attention_backend,
        parallelism=parallelism,
        num_params=num_params(llm),
        date=date,
        command=command,
        factors=found.factors,
        coefficients={n: getattr(roofline, n) * f for n, f in found.factors.items()},
        left_out_error=found.left_out_error,
        measurements=tuple(measurements),
        residuals=found.residuals,
    )
