"""A Miles sglang_config read as a deployment: the same thing in other words."""

from pdctl.deployment.choose import checked, name_of
from pdctl.deployment.records import Deployment, RolePlan
from pdctl.deployment.yaml_fields import Field
from pdctl.perf_model.records import Parallelism, Role

MODEL_KEYS = ("name", "model_path", "update_weights", "num_gpus_per_engine", "server_groups")
GROUP_KEYS = ("worker_type", "num_gpus", "num_gpus_per_engine", "overrides")
WORKER_TYPES: dict[str, Role] = {
    "prefill": "prefill",
    "decode": "decode",
    "regular": "colocated",
}
# ServerArgs fields that are pdctl's own settings rather than flags to pass on
SIZES = {"pp_size": "pp", "attn_dp_size": "dp", "dp_size": "dp", "ep_size": "ep"}
IMPLIED = ("tp_size", "enable_dp_attention")
RUN_BY_MILES = "Miles runs that itself; pdctl runs one model's prefill and decode, or colocated"


def deployment_of_miles(top: Field) -> Deployment:
    """The deployment a Miles sglang_config describes.

    Raises InvalidInput for what only Miles can run: several models, placeholder groups, several
        groups of one role, and a model path that comes from Miles' own command line.
    Source: miles/backends/sglang_utils/sglang_config.py.
    """
    models = top.mapping(("sglang",))["sglang"].items()
    if len(models) != 1:
        raise top.problem(f"describes {len(models)} models", hint=RUN_BY_MILES)
    keys = models[0].mapping(MODEL_KEYS)
    if "model_path" not in keys or "server_groups" not in keys:
        missing = "model_path" if "model_path" not in keys else "server_groups"
        raise models[0].problem(f"has no {missing}", hint=f"add {missing} to run it with pdctl")
    model = keys["model_path"].text()
    usual = keys.get("num_gpus_per_engine")
    roles: dict[Role, RolePlan] = {}
    for group in keys["server_groups"].items():
        role, plan = _group(group, usual.integer(at_least=1) if usual else None)
        if role in roles:
            raise group.problem(f"is a second group of {role} engines", hint=RUN_BY_MILES)
        roles[role] = plan
    if set(roles) not in ({"prefill", "decode"}, {"colocated"}):
        raise keys["server_groups"].problem(
            f"holds {' and '.join(roles) or 'nothing'}", hint=RUN_BY_MILES
        )
    return checked(Deployment(name=name_of(model), model=model, roles=roles))


def _group(group: Field, usual_gpus: int | None) -> tuple[Role, RolePlan]:
    keys = group.mapping(GROUP_KEYS)
    for key in ("worker_type", "num_gpus"):
        if key not in keys:
            raise group.problem(f"has no {key}")
    kind = keys["worker_type"].text()
    if kind not in WORKER_TYPES:
        raise keys["worker_type"].problem(f"is {kind!r}", hint=RUN_BY_MILES)
    own = keys.get("num_gpus_per_engine")
    per_engine = own.integer(at_least=1) if own else usual_gpus or 1
    num_gpus = keys["num_gpus"].integer(at_least=1)
    if num_gpus % per_engine:
        raise keys["num_gpus"].problem(f"{num_gpus} is no multiple of {per_engine} per engine")
    sizes, args = _overrides(keys["overrides"]) if "overrides" in keys else ({}, ())
    pp = sizes.get("pp", 1)
    if per_engine % pp:
        raise group.problem(f"pp_size {pp} does not divide {per_engine} GPUs per engine")
    parallelism = Parallelism(per_engine // pp, pp, sizes.get("dp", 1), sizes.get("ep", 1))
    return WORKER_TYPES[kind], RolePlan(num_gpus // per_engine, parallelism, args)


def _overrides(field: Field) -> tuple[dict[str, int], tuple[str, ...]]:
    sizes: dict[str, int] = {}
    args: list[str] = []
    for name, value in field.mapping().items():
        if name in SIZES:
            sizes[SIZES[name]] = value.integer(at_least=1)
        elif name not in IMPLIED:
            args += value.flag(name)
    return sizes, tuple(args)
