"""Miles, which runs SGLang inside RL training: read its sglang_config, and write its settings."""

import re
from collections.abc import Sequence

from pdctl.deployment.build import name_of, validated
from pdctl.deployment.flags import usual_flags
from pdctl.deployment.records import (
    ROLE_OF_WORKER_TYPE,
    WORKER_TYPES,
    Deployment,
    ProcessSpec,
    RolePlan,
)
from pdctl.deployment.sglang_flags import options
from pdctl.deployment.strict_yaml import Field
from pdctl.errors import InvalidInput
from pdctl.inspection.llm import bundled_names
from pdctl.perf_model.records import Parallelism, Role

MODEL_KEYS = ("name", "model_path", "update_weights", "num_gpus_per_engine", "server_groups")
GROUP_KEYS = ("worker_type", "num_gpus", "num_gpus_per_engine", "overrides")
# ServerArgs fields that are settings of pdctl and not flags to pass on
SIZES = {"pp_size": "pp", "attn_dp_size": "dp", "dp_size": "dp", "ep_size": "ep"}
IMPLIED = ("tp_size", "enable_dp_attention")
RUN_BY_MILES = "only Miles can run this; pdctl runs one model, split or colocated"


def deployment_of_miles(top: Field) -> Deployment:
    """The deployment that a Miles sglang_config describes.

    Raises InvalidInput for settings that only Miles can run: several models, placeholder groups,
        several groups of one role, and a model path that comes from Miles' own command line.
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
        role, plan = _read_group(group, usual.integer(at_least=1) if usual else None)
        if role in roles:
            raise group.problem(f"is a second group of {role} engines", hint=RUN_BY_MILES)
        roles[role] = plan
    if set(roles) not in ({"prefill", "decode"}, {"colocated"}):
        raise keys["server_groups"].problem(
            f"holds {' and '.join(roles) or 'nothing'}", hint=RUN_BY_MILES
        )
    return validated(Deployment(name=name_of(model), model=model, roles=roles))


def _read_group(group: Field, usual_gpus: int | None) -> tuple[Role, RolePlan]:
    keys = group.mapping(GROUP_KEYS)
    for key in ("worker_type", "num_gpus"):
        if key not in keys:
            raise group.problem(f"has no {key}")
    kind = keys["worker_type"].text()
    if kind not in ROLE_OF_WORKER_TYPE:
        raise keys["worker_type"].problem(f"is {kind!r}", hint=RUN_BY_MILES)
    own = keys.get("num_gpus_per_engine")
    per_engine = own.integer(at_least=1) if own else usual_gpus or 1
    num_gpus = keys["num_gpus"].integer(at_least=1)
    if num_gpus % per_engine:
        raise keys["num_gpus"].problem(
            f"{num_gpus} is not a multiple of the {per_engine} GPUs per engine"
        )
    sizes, args = _read_overrides(keys["overrides"]) if "overrides" in keys else ({}, ())
    pp = sizes.get("pp", 1)
    if per_engine % pp:
        raise group.problem(f"pp_size {pp} does not divide {per_engine} GPUs per engine")
    parallelism = Parallelism(per_engine // pp, pp, sizes.get("dp", 1), sizes.get("ep", 1))
    return ROLE_OF_WORKER_TYPE[kind], RolePlan(num_gpus // per_engine, parallelism, args)


def _read_overrides(field: Field) -> tuple[dict[str, int], tuple[str, ...]]:
    sizes: dict[str, int] = {}
    args: list[str] = []
    for name, value in field.mapping().items():
        if name in SIZES:
            sizes[SIZES[name]] = value.integer(at_least=1)
        elif name not in IMPLIED:
            args += value.flag(name)
    return sizes, tuple(args)


NOTE = (
    "Miles accepts either --prefill-num-servers or --sglang-config, but not both,"
    " and neither together with --rollout-external."
)


def render_flags(deployment: Deployment, specs: Sequence[ProcessSpec] = ()) -> str:
    """Miles' command-line flags for a split deployment, with --prefill-num-servers.

    Raises InvalidInput for deployments that these flags cannot express: colocated engines, roles
        of different sizes, or roles with flags of their own.
    Source: miles/backends/sglang_utils/sglang_config.py (from_prefill_num_servers).
    Ignores: the processes; the router's settings and the environment, which Miles sets itself.
    """
    if "prefill" not in deployment.roles:
        raise InvalidInput(
            f"--prefill-num-servers cannot express {deployment.layout}, which is not split.",
            hint="pdctl render miles --as yaml, or leave the flag out of Miles' command line",
        )
    prefill, decode = deployment.roles["prefill"], deployment.roles["decode"]
    if prefill.parallelism != decode.parallelism or prefill.args or decode.args:
        raise InvalidInput(
            "--prefill-num-servers cannot express that prefill and decode engines differ or have"
            " flags of their own.",
            hint="pdctl render miles --as yaml",
        )
    parallelism = prefill.parallelism
    sizes = (("pp", parallelism.pp), ("dp", parallelism.dp), ("ep", parallelism.ep))
    flags = (
        f"--rollout-num-gpus {deployment.num_gpus}",
        f"--rollout-num-gpus-per-engine {parallelism.num_gpus}",
        f"--prefill-num-servers {prefill.engines}",
        *(f"--sglang-{size}-size {value}" for size, value in sizes if value > 1),
        *(("--sglang-enable-dp-attention",) if parallelism.dp > 1 else ()),
        *(word.replace("--", "--sglang-", 1) for word in usual_flags("prefill", prefill)),
    )
    return " ".join(flags) + "\n"


def render_yaml(deployment: Deployment, specs: Sequence[ProcessSpec] = ()) -> str:
    """A file for Miles' --sglang-config. Leaves out a bundled model, which has no weights.

    Source: miles/backends/sglang_utils/sglang_config.py (server_groups).
    Ignores: the processes; the router's settings and the environment, which Miles sets itself.
    """
    import yaml  # slow, and most commands read no Miles file

    groups = [
        _group(role, plan, deployment.transfer_backend) for role, plan in deployment.roles.items()
    ]
    has_weights = deployment.model not in bundled_names()
    path = {"model_path": deployment.model} if has_weights else {}
    document = {"sglang": [{"name": "actor", **path, "server_groups": groups}]}
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    how = f"--sglang-config this-file --rollout-num-gpus {deployment.num_gpus}"
    return f"# {how}\n# {NOTE}\n{text}"


def render_external(deployment: Deployment, specs: Sequence[ProcessSpec]) -> str:
    """Miles' flags for the engines of a running deployment, which Miles then does not start.

    Raises InvalidInput for engines of different sizes: Miles has one flag for the size of all.
    Source: slime and Miles, --rollout-external; it excludes --prefill-num-servers and
        --sglang-config.
    Ignores: the router, because Miles starts its own.
    """
    engines = [spec for spec in specs if spec.role != "router"]
    sizes = {len(spec.gpu_places) for spec in engines}
    if len(sizes) > 1:
        raise InvalidInput(
            "--rollout-num-gpus-per-engine cannot express engines of "
            f"{' and '.join(map(str, sorted(sizes)))} GPUs.",
            hint="the same --tp for prefill and decode",
        )
    addresses = " ".join(spec.url.removeprefix("http://") for spec in engines)
    return (
        f"--rollout-external --rollout-external-engine-addrs {addresses}"
        f" --rollout-num-gpus {sum(len(spec.gpu_places) for spec in engines)}"
        f" --rollout-num-gpus-per-engine {max(sizes, default=0)}\n"
    )


def _group(role: Role, plan: RolePlan, backend: str) -> dict[str, object]:
    group: dict[str, object] = {
        "worker_type": WORKER_TYPES[role],
        "num_gpus": plan.engines * plan.parallelism.num_gpus,
        "num_gpus_per_engine": plan.parallelism.num_gpus,
    }
    overrides = _overrides(role, plan, backend)
    return {**group, "overrides": overrides} if overrides else group


def _overrides(role: Role, plan: RolePlan, backend: str) -> dict[str, object]:
    fields: dict[str, object] = {}
    for size in ("pp", "dp", "ep"):
        if getattr(plan.parallelism, size) > 1:
            fields[f"{size}_size"] = getattr(plan.parallelism, size)
    if plan.parallelism.dp > 1:
        fields["enable_dp_attention"] = True
    if role != "colocated" and backend != "auto":
        fields["disaggregation_transfer_backend"] = backend
    for flag, value in options((*usual_flags(role, plan), *plan.args)).items():
        fields[flag.lstrip("-").replace("-", "_")] = _typed(value)
    return fields


def _typed(value: str) -> object:
    """A flag's value with the type of its ServerArgs field; a flag without a value is True."""
    if not value:
        return True
    if re.fullmatch(r"-?\d+", value):
        return int(value)
    if re.fullmatch(r"-?\d+\.\d*(e-?\d+)?", value):
        return float(value)
    parts = value.split(" ")
    many = len(parts) > 1 and all(re.fullmatch(r"-?\d+", part) for part in parts)
    return [int(part) for part in parts] if many else value
