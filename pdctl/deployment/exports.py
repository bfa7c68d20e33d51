"""A deployment for somebody else to run: a shell, or Miles."""

import re
import shlex
from collections.abc import Sequence
from typing import Literal

from pdctl.deployment.extra_args import options
from pdctl.deployment.flags_router import with_engines
from pdctl.deployment.records import Deployment, ProcessSpec, RolePlan
from pdctl.errors import InvalidInput
from pdctl.perf_model.records import Role

MilesForm = Literal["flag", "yaml"]
MILES_NOTE = (
    "Miles takes either --prefill-num-servers or --sglang-config, never both,"
    " and neither of them beside --rollout-external."
)
_WORKER_TYPES: dict[Role, str] = {
    "prefill": "prefill",
    "decode": "decode",
    "colocated": "regular",
}


def shell(specs: Sequence[ProcessSpec]) -> str:
    """A bash script that starts every process, logs as pdctl would and stops all on Ctrl-C.

    Without pdctl nobody adds engines to the router, so its command lists them, and it waits.

    Args:
        specs: as `expand` gives them, the router first.
    """
    router, engines = specs[0], specs[1:]
    logs = sorted({str(spec.log.parent) for spec in specs})
    lines = [
        "#!/usr/bin/env bash",
        "trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT",
        *(f"mkdir -p {shlex.quote(directory)}" for directory in logs),
        *(_background(spec, spec.argv) for spec in engines),
        _background(router, with_engines(router, engines)),
        f"echo {shlex.quote(f'{router.url} answers when every engine is up')}",
        "wait",
    ]
    return "\n".join(lines) + "\n"


def command_line(spec: ProcessSpec) -> str:
    """One process as a line a shell runs as it stands, in the foreground."""
    env = (f"{name}={shlex.quote(value)}" for name, value in sorted(spec.env.items()))
    return " ".join(("env", *env, shlex.join(spec.argv)) if spec.env else (shlex.join(spec.argv),))


def miles(deployment: Deployment, *, form: MilesForm, has_weights: bool = True) -> str:
    """What Miles, which runs SGLang inside RL training, needs to run this layout.

    Args:
        form: "flag" for --prefill-num-servers, "yaml" for the file of --sglang-config.
        has_weights: the model is a path or an id; otherwise it is only the name of a shape, and
            Miles takes the model of its --hf-checkpoint.

    Raises:
        InvalidInput: "flag" for what one number cannot say: colocated engines, roles of different
            sizes, flags of their own.
    Source: miles/backends/sglang_utils/sglang_config.py (from_prefill_num_servers, server_groups).
    Ignores: the router's settings and the environment, which Miles sets itself.
    """
    if form == "flag":
        return _miles_flag(deployment)
    return _miles_yaml(deployment, has_weights)


def _background(spec: ProcessSpec, argv: Sequence[str]) -> str:
    env = " ".join(f"{name}={shlex.quote(value)}" for name, value in sorted(spec.env.items()))
    command = f"{shlex.join(argv)} >> {shlex.quote(str(spec.log))} 2>&1 &"
    return f"{env} {command}" if env else command


def _miles_flag(deployment: Deployment) -> str:
    if "prefill" not in deployment.roles:
        raise InvalidInput(
            f"--prefill-num-servers cannot say {deployment.layout}: nothing is split.",
            hint="pdctl render miles --as yaml, or leave the flag out of Miles' command line",
        )
    prefill, decode = deployment.roles["prefill"], deployment.roles["decode"]
    if prefill.parallelism != decode.parallelism or prefill.args or decode.args:
        raise InvalidInput(
            "--prefill-num-servers cannot say that prefill and decode engines differ, nor flags"
            " of their own.",
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
    )
    return " ".join(flags) + "\n"


def _miles_yaml(deployment: Deployment, has_weights: bool) -> str:
    import yaml

    groups = [
        _group(role, plan, deployment.transfer_backend) for role, plan in deployment.roles.items()
    ]
    path = {"model_path": deployment.model} if has_weights else {}
    document = {"sglang": [{"name": "actor", **path, "server_groups": groups}]}
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    how = f"--sglang-config this-file --rollout-num-gpus {deployment.num_gpus}"
    return f"# {how}\n# {MILES_NOTE}\n{text}"


def _group(role: Role, plan: RolePlan, backend: str) -> dict[str, object]:
    group: dict[str, object] = {
        "worker_type": _WORKER_TYPES[role],
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
    for flag, value in options(plan.args).items():
        fields[flag.lstrip("-").replace("-", "_")] = _typed(value)
    return fields


def _typed(value: str) -> object:
    """A flag's text as ServerArgs would hold it: nothing is true, numbers are numbers."""
    if not value:
        return True
    if re.fullmatch(r"-?\d+", value):
        return int(value)
    if re.fullmatch(r"-?\d+\.\d*(e-?\d+)?", value):
        return float(value)
    parts = value.split(" ")
    many = len(parts) > 1 and all(re.fullmatch(r"-?\d+", part) for part in parts)
    return [int(part) for part in parts] if many else value
