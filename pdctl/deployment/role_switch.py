"""Whether an engine may change its role while it runs, with its weights in place: pure."""

from pdctl.deployment.extra_args import Version, options
from pdctl.deployment.records import Deployment, RolePlan
from pdctl.perf_model.records import Role

FLAG = "--enable-pd-role-switch"
ROLE_SWITCH_SINCE: Version = (0, 5, 23)
# backends whose KV manager can be torn down and built again
BACKENDS = ("mooncake", "mooncake_tcp", "ascend", "mori")
_REFUSED_WITH = {
    "--speculative-algorithm": "speculative decoding",
    "--dcp-size": "decode context parallelism",
    "--enable-hisparse": "HiSparse",
    "--disaggregation-decode-host-receive-threshold": "decode host receive",
}


def role_switch_obstacle(
    deployment: Deployment, *, version: Version | None, backend: str | None
) -> str:
    """Why engines of this deployment are not started able to change roles; "" if they are.

    Args:
        version: SGLang's; not looked at for simulated engines, which switch as 0.5.23 does.
        backend: of KV transfer; not looked at for simulated engines either.

    Source: arg_groups/pd_disaggregation_hook.py and disaggregation/role_switch.py of SGLang 0.5.23.
    """
    plans = [deployment.roles[role] for role in _SPLIT if role in deployment.roles]
    if len(plans) < len(_SPLIT):
        return "colocated engines have no role to change"
    if deployment.engine == "sglang":
        if version is None or version < ROLE_SWITCH_SINCE:
            return "SGLang changes roles at run time since 0.5.23"
        if backend not in BACKENDS:
            return f"KV transfer over {backend} cannot be rebuilt at run time"
    if plans[0].parallelism != plans[1].parallelism:
        return "prefill and decode engines are not of one size"
    return next((reason for plan in plans if (reason := _refusal(plan))), "")


_SPLIT: tuple[Role, ...] = ("prefill", "decode")


def differing_flags(deployment: Deployment) -> tuple[str, ...]:
    """The user's flags that an engine keeps from its first role: one role has them otherwise."""
    prefill, decode = (options(deployment.roles[role].args) for role in _SPLIT)
    return tuple(
        flag for flag in sorted({*prefill, *decode}) if prefill.get(flag) != decode.get(flag)
    )


def _refusal(plan: RolePlan) -> str:
    """What of a role's settings SGLang does not rebuild when roles change."""
    if plan.parallelism.ep > 1:
        return "expert parallelism is not rebuilt at run time"
    if plan.parallelism.pp > 1:
        return "pipeline parallelism is not rebuilt at run time"
    given = options(plan.args)
    if given.get("--moe-a2a-backend", "none") != "none":
        return "MoE all-to-all is not rebuilt at run time"
    if given.get("--disaggregation-decode-allocation-policy") == "prefill_complete":
        return "--disaggregation-decode-allocation-policy prefill_complete excludes it"
    if "SGLANG_DISAGG_STAGING_BUFFER" in plan.env:
        return "SGLANG_DISAGG_STAGING_BUFFER excludes it"
    return next(
        (f"{words} is not rebuilt at run time" for f, words in _REFUSED_WITH.items() if f in given),
        "",
    )
