"""A Profile from what a calibration measured and fitted."""

from collections.abc import Sequence

from pdctl.inspection.llm_size import num_params
from pdctl.inspection.records import Llm
from pdctl.perf_model.profiles import family, profile_id
from pdctl.perf_model.records import Fit, Measurement, Parallelism, Profile, StepTimes


def calibrated_profile(
    measurements: Sequence[Measurement],
    fit: Fit,
    roofline: StepTimes,
    llm: Llm,
    *,
    gpu: str,
    parallelism: Parallelism,
    engine: str,
    attention_backend: str,
    date: str,
    command: str,
) -> Profile:
    """The profile of a fit. date: ISO day; command: how to measure it again."""
    shape = family(llm)
    return Profile(
        id=profile_id(gpu, shape, engine, attention_backend),
        gpu=gpu,
        family=shape,
        architecture=llm.architecture,
        llm=llm.name,
        engine=engine,
        attention_backend=attention_backend,
        parallelism=parallelism,
        num_params=num_params(llm),
        date=date,
        command=command,
        factors=fit.factors,
        coefficients={n: getattr(roofline, n) * f for n, f in fit.factors.items()},
        left_out_error=fit.left_out_error,
        measurements=tuple(measurements),
        residuals=fit.residuals,
    )
