"""PromQL over the metrics of SGLang, its router and pdctl: what alerts and dashboards share.

Every target carries the labels deployment, role, engine and host; see
engines/supervision/scrape_targets.py.

Source: observability/metrics_collector.py of SGLang 0.5.23, metrics of sglang-router 0.3.2.
"""

SERVING_ROLES = "prefill|decode|colocated"
SPEAKING_ROLES = "decode|colocated"  # those that hold running requests and observe latencies
PREFILLING_ROLES = "prefill|colocated"

# pdctl's own metrics. Their target has a role of its own, so the engines' is called pool.
POOL = "pool"
DESIRED = "pdctl_engines_desired"
SERVING = "pdctl_engines_serving"
ADVICE = "pdctl_advice"
ADVISED = "pdctl_engines_advised"
SLO_SECONDS = "pdctl_slo_seconds"
SLO_TARGET = "pdctl_slo_target_ratio"
SLO_OBSERVED = "pdctl_slo_observations_total"
SLO_MISSED = "pdctl_slo_missed_total"
ERROR_BUDGET = "pdctl_error_budget_remaining_ratio"
PREDICTED = "pdctl_predicted_seconds"
WHAT_IF = "pdctl_what_if_share_ratio"
WHAT_IF_SEEN = "pdctl_what_if_seen_ratio"
WHAT_IF_REPLAYED = "pdctl_what_if_replayed_ratio"


def gauge(name: str, roles: str, where: str = "") -> str:
    """A gauge of SGLang for each engine: its data-parallel ranks added up.

    Ranks of tensor and pipeline parallelism repeat the numbers of one data-parallel rank, and a
    series with a priority is part of the one without.
    """
    return _per_engine("sum", name, roles, where)


def mean_gauge(name: str, roles: str, where: str = "") -> str:
    """A share of SGLang for each engine: the mean over its data-parallel ranks."""
    return _per_engine("avg", name, roles, where)


def _per_engine(over_ranks: str, name: str, roles: str, where: str) -> str:
    conditions = _both(_role(roles), 'priority=""', where)
    series = f"sglang:{name}{{{conditions}}}"
    one_rank = f"max by (deployment, role, engine, dp_rank) ({series})"
    return f"{over_ranks} by (deployment, role, engine) ({one_rank})"


def rate(name: str, roles: str, window: str, where: str = "", by: str = "deployment") -> str:
    """The rate of a counter of SGLang, summed over engines."""
    return f"sum by ({by}) (rate(sglang:{name}{{{_both(_role(roles), where)}}}[{window}]))"


def mean(name: str, roles: str, window: str, where: str = "", by: str = "deployment") -> str:
    """The mean of a histogram's observations in a window."""
    parts = (rate(f"{name}_{part}", roles, window, where, by) for part in ("sum", "count"))
    return " / ".join(parts)


def histogram_quantile(
    share: float, name: str, roles: str, window: str, where: str = "", by: str = "deployment"
) -> str:
    """A quantile of a histogram's observations in a window."""
    buckets = rate(f"{name}_bucket", roles, window, where, f"{by}, le")
    return f"histogram_quantile({share:g}, {buckets})"


def missed_share(window: str, where: str = "") -> str:
    """The share of observations that missed their limit, by deployment and SLO."""
    parts = (
        f"sum by (deployment, slo) (rate({name}{{{where}}}[{window}]))"
        for name in (SLO_MISSED, SLO_OBSERVED)
    )
    return " / ".join(parts)


def burn_rate(window: str, where: str = "") -> str:
    """The speed at which the error budget is used up, as a multiple of the speed allowed."""
    allowed = f"(1 - max by (deployment, slo) ({SLO_TARGET}{{{where}}}))"
    return f"({missed_share(window, where)}) / {allowed}"


def _role(roles: str) -> str:
    return f'role=~"{roles}"'


def _both(*conditions: str) -> str:
    return ",".join(filter(None, conditions))
