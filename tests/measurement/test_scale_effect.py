"""The predicted effect of other numbers of engines."""

from pdctl.measurement.scale_effect import _compared, resized
from pdctl.workload.describe import workload_from_lengths
from tests.perf_model.fleets import split


def test_more_prefill_engines_shorten_the_time_to_the_first_token_of_long_prompts() -> None:
    fleet = split(num_prefill=1, num_decode=2)
    more = resized(fleet, (0, fleet.num_prefill + 2, fleet.num_decode))
    assert (more.num_prefill, more.prefill) == (fleet.num_prefill + 2, fleet.prefill)
    workload = workload_from_lengths(isl=8000, osl=20, rate_rps=8.0)
    effect = _compared(fleet, more, workload, 10.0, "roofline")
    assert effect.rate_rps == 8.0
    assert effect.before.ttft_p99_s is not None
    assert effect.after.ttft_p99_s is not None
    assert effect.after.ttft_p99_s < effect.before.ttft_p99_s
