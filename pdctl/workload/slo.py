"""Read an SLO from flags."""

from pdctl.errors import InvalidInput
from pdctl.units import parse_duration_s
from pdctl.workload.records import Slo


def parse_slo(ttft: str | None, tpot: str | None, attainment: float = 0.9) -> Slo:
    """The SLO of `--ttft 1s --tpot 30ms --attainment 0.9`.

    A bare number counts in seconds for TTFT and in milliseconds for TPOT.
    Raises InvalidInput naming the flag of a value that is not positive and finite, or of an
    attainment that is not above 0 and at most 1.
    """
    if not 0 < attainment <= 1:
        raise InvalidInput(
            f"--attainment is a share above 0 and at most 1, not {attainment:g}.",
            hint="--attainment 0.9",
        )
    return Slo(
        ttft_s=None if ttft is None else parse_duration_s(ttft, flag="--ttft"),
        tpot_s=None if tpot is None else parse_duration_s(tpot, flag="--tpot", bare_unit="ms"),
        attainment=attainment,
    )
