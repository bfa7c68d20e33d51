"""pd.yaml: a deployment as a file that a person can read, edit and launch."""

import os
import shlex
from collections.abc import Mapping
from dataclasses import fields, replace
from datetime import datetime
from pathlib import Path
from typing import cast

from pdctl.deployment.build import name_of, validated
from pdctl.deployment.cluster_file import read_place
from pdctl.deployment.containers import container_document, read_container
from pdctl.deployment.records import (
    Deployment,
    EngineKind,
    ObservePlan,
    PlannedFor,
    RolePlan,
    RouterPlan,
)
from pdctl.deployment.strict_yaml import Field, parse_yaml, read_yaml
from pdctl.errors import EnvironmentProblem, PdctlError
from pdctl.perf_model.records import Parallelism, Role
from pdctl.units import parse_latency_s

SCHEMA = 1
_YAML_LINE_BREAKS = "\x85\u2028\u2029"  # written as they are, they would read back as spaces
ROLES: tuple[Role, ...] = ("prefill", "decode", "colocated")
ROLE_KEYS = ("engines", "tp", "pp", "dp", "ep", "args", "env", "image")
ROUTER_KEYS = ("host", "port", "policy", "args")
SLO_KEYS = ("ttft", "tpot", "attainment")
OBSERVE_KEYS = ("metrics", "traces", "what_if")
PLANNED_KEYS = tuple(field.name for field in fields(PlannedFor))
_PLAIN_KEYS = (
    *("engine", "python", "gpus", "place", "transfer_backend", "trust_remote_code"),
    *("request_times", "sim_speed"),
)
_MADE_IN = "# made in "
KEYS = (
    *("schema", "name", "model"),
    *_PLAIN_KEYS,
    *("args", "container"),
    *ROLES,
    *("router", "observe", "slo", "planned", "predicted"),
)


def read_deployment(path: Path) -> Deployment:
    """The deployment in a pd.yaml, or in a Miles sglang_config with one model.

    Raises InvalidInput, with file and line, for anything it does not understand.
    """
    from pdctl.deployment.exports.miles import deployment_of_miles  # slow to import, and rare

    top = read_yaml(path)
    found = deployment_of_miles(top) if "sglang" in top.mapping() else _deployment(top)
    return replace(found, model=_beside(path, found.model))


def _beside(path: Path, model: str) -> str:
    """A model's folder that is named relative to the file, as an absolute path; else `model`."""
    folder = path.resolve().parent / model
    return str(folder.resolve()) if model and (folder / "config.json").is_file() else model


def parse_deployment(text: str, file: str = "pd.yaml") -> Deployment:
    """The deployment in the text of a pd.yaml. Raises InvalidInput, as `read_deployment`."""
    return _deployment(parse_yaml(text.encode(), file))


def write_deployment(deployment: Deployment, path: Path, *, made_in: Path | None = None) -> None:
    """Write a pd.yaml that reads back as an equal deployment. Readers never see a partial file.

    made_in: the folder in which a plan was made, for `origin_of`.
    Raises EnvironmentProblem if the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")  # plans may be made side by side
    try:
        partial.unlink(missing_ok=True)  # never write through a link in a shared folder
        with partial.open("x", encoding="utf-8") as file:
            file.write(f"{_MADE_IN}{str(made_in)!r}\n" if made_in else "")
            file.write(deployment_yaml(deployment))
        partial.replace(path)
    except OSError as problem:
        partial.unlink(missing_ok=True)
        raise EnvironmentProblem(
            f"{path} cannot be written: {problem.strerror}.", hint="-o FILE in another folder"
        ) from problem


def origin_of(path: Path) -> str:
    """The time and folder of a plan: "14:42 in '/home/me/x'"."""
    try:
        when = datetime.fromtimestamp(path.stat().st_mtime).astimezone()
        with path.open(encoding="utf-8", errors="replace") as file:
            first = file.readline(4096)
    except OSError:
        return "an unknown time"
    at = f"{when:%H:%M}" if when.date() == datetime.now().astimezone().date() else f"{when:%d %b}"
    folder = first.removeprefix(_MADE_IN).strip() if first.startswith(_MADE_IN) else ""
    return f"{at} in {folder}" if folder else at


def deployment_yaml(deployment: Deployment) -> str:
    """The text of a pd.yaml, without the keys that have their default value."""
    import yaml  # slow, and most commands write no file

    usual = Deployment(name="", model="", roles={})
    document: dict[str, object] = {
        "schema": SCHEMA,
        "name": deployment.name,
        "model": deployment.model,
    }
    for key in _PLAIN_KEYS:
        value = getattr(deployment, key)
        if value != getattr(usual, key):
            document[key] = value
    if deployment.container is not None:
        document["container"] = container_document(deployment.container)
    for role in ROLES:
        if role in deployment.roles:
            document[role] = _role_document(deployment.roles[role])
    if deployment.router != usual.router:
        document["router"] = _router_document(deployment.router)
    document |= _observe_document(deployment.observe) | _slo_document(deployment)
    if deployment.planned is not None:
        document["planned"] = _planned_document(deployment.planned)
    if deployment.predicted:
        document["predicted"] = {key: float(v) for key, v in deployment.predicted.items()}
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=4096)
    if any(c in text for c in _YAML_LINE_BREAKS):
        text = yaml.safe_dump(document, sort_keys=False, width=4096)
    return text


def _deployment(top: Field) -> Deployment:
    keys = top.mapping(KEYS)
    _check_schema(top, keys)
    if "model" not in keys:
        raise top.problem("has no model", hint="add model: Qwen/Qwen3-32B, or a directory")
    model = keys["model"].text()
    usual = Deployment(name="", model="", roles={})
    router = _router(keys["router"]) if "router" in keys else usual.router
    observe = keys["observe"].mapping(OBSERVE_KEYS) if "observe" in keys else {}
    slo = keys["slo"].mapping(SLO_KEYS) if "slo" in keys else {}
    predicted = keys["predicted"].mapping() if "predicted" in keys else {}
    deployment = Deployment(
        name=keys["name"].text() if "name" in keys else name_of(model),
        model=model,
        roles=_roles(top, keys),
        engine=_engine(keys["engine"]) if "engine" in keys else usual.engine,
        router=router,
        gpus=_optional(keys, "gpus"),
        place=read_place(keys["place"]) if "place" in keys else usual.place,
        transfer_backend=_optional(keys, "transfer_backend") or usual.transfer_backend,
        python=_optional(keys, "python"),
        container=read_container(keys["container"]) if "container" in keys else None,
        trust_remote_code="trust_remote_code" in keys and keys["trust_remote_code"].boolean(),
        request_times="request_times" not in keys or keys["request_times"].boolean(),
        sim_speed=_sim_speed(keys["sim_speed"]) if "sim_speed" in keys else usual.sim_speed,
        observe=_observe(observe),
        ttft_slo_s=slo["ttft"].seconds() if "ttft" in slo else None,
        tpot_slo_s=slo["tpot"].seconds() if "tpot" in slo else None,
        attainment_slo=_share(slo["attainment"]) if "attainment" in slo else usual.attainment_slo,
        planned=_planned(keys["planned"]) if "planned" in keys else None,
        predicted={key: field.number() for key, field in predicted.items()},
    )
    return _checked(top, deployment)


def _checked(top: Field, deployment: Deployment) -> Deployment:
    try:
        return validated(deployment)
    except PdctlError as problem:
        what = problem.message.rstrip(".")
        raise type(problem)(
            f"{top.file}: {what}.", hint=problem.hint, code=problem.code
        ) from problem


def _check_schema(top: Field, keys: dict[str, Field]) -> None:
    if "schema" not in keys:
        raise top.problem("has no schema", hint=f"start the file with schema: {SCHEMA}")
    version = keys["schema"].integer(at_least=1)
    if version > SCHEMA:
        raise keys["schema"].problem(
            f"{version} is newer than {SCHEMA}, the latest that this pdctl reads",
            hint="a newer pdctl",
        )


def _roles(top: Field, keys: dict[str, Field]) -> dict[Role, RolePlan]:
    shared = keys["args"].args() if "args" in keys else ()
    roles = {role: _role(keys[role], shared) for role in ROLES if role in keys}
    if set(roles) not in ({"prefill", "decode"}, {"colocated"}):
        found = " and ".join(roles) or "none"
        raise top.problem(
            f"has engines for {found}, but needs prefill and decode, or colocated alone",
            hint="prefill: {engines: 2} and decode: {engines: 6}, or colocated: {engines: 8}",
        )
    return roles


def _role(field: Field, shared: tuple[str, ...]) -> RolePlan:
    keys = field.mapping(ROLE_KEYS)
    if "engines" not in keys:
        raise field.problem("has no engine count", hint=f"{field.key}: {{engines: 2}}")
    sizes = {f: keys[f].integer(at_least=1) for f in ("tp", "pp", "dp", "ep") if f in keys}
    return RolePlan(
        engines=keys["engines"].integer(at_least=1),
        parallelism=Parallelism(**sizes),
        args=(*shared, *(keys["args"].args() if "args" in keys else ())),
        env=keys["env"].texts() if "env" in keys else {},
        image=_optional(keys, "image"),
    )


def _router(field: Field) -> RouterPlan:
    keys = field.mapping(ROUTER_KEYS)
    usual = RouterPlan()
    return RouterPlan(
        host=_optional(keys, "host") or usual.host,
        port=keys["port"].integer(at_least=1) if "port" in keys else usual.port,
        policy=_optional(keys, "policy"),
        args=keys["args"].args() if "args" in keys else (),
    )


def _engine(field: Field) -> EngineKind:
    if field.text() not in ("sglang", "sim"):
        raise field.problem(f"must be sglang or sim, not {field.text()!r}")
    return cast(EngineKind, field.text())


def _share(field: Field) -> float:
    if not 0 < field.number() <= 1:
        raise field.problem(f"must be above 0 and at most 1, not {field.text()}", hint="0.9")
    return field.number()


def _planned(field: Field) -> PlannedFor:
    keys = field.mapping(PLANNED_KEYS)
    if "gpus" not in keys:
        raise field.problem("has no gpus", hint="gpus: 8xH200")
    return PlannedFor(
        gpus=keys["gpus"].text(),
        gpu_file=_optional(keys, "gpu_file"),
        trace=_optional(keys, "trace"),
        time_unit=_optional(keys, "time_unit"),
        skip_bad="skip_bad" in keys and keys["skip_bad"].boolean(),
        isl=_number(keys, "isl"),
        osl=_number(keys, "osl"),
        isl_cv=_number(keys, "isl_cv"),
        osl_cv=_number(keys, "osl_cv"),
        prefix_hit=_number(keys, "prefix_hit"),
        rate=_number(keys, "rate"),
        concurrency=_number(keys, "concurrency"),
        spec_draft_tokens=_whole(keys, "spec_draft_tokens"),
        spec_accept_length=_number(keys, "spec_accept_length"),
        profile=_optional(keys, "profile"),
        seed=_whole(keys, "seed") or 0,
    )


def _number(keys: dict[str, Field], key: str) -> float | None:
    return keys[key].number() if key in keys and not keys[key].is_null else None


def _whole(keys: dict[str, Field], key: str) -> int | None:
    found = _number(keys, key)
    return None if found is None else round(found)


def _sim_speed(field: Field) -> float:
    if not field.number() > 0:
        raise field.problem(f"must be above zero, not {field.text()}", hint="sim_speed: 1.0")
    return field.number()


def _optional(keys: dict[str, Field], key: str) -> str | None:
    return keys[key].text() if key in keys and not keys[key].is_null else None


def _observe(keys: Mapping[str, Field]) -> ObservePlan:
    return ObservePlan(
        metrics=keys["metrics"].text() if "metrics" in keys else "",
        traces=keys["traces"].text() if "traces" in keys else "",
        what_if="what_if" not in keys or keys["what_if"].boolean(),
    )


def _observe_document(observe: ObservePlan) -> dict[str, object]:
    usual, values = ObservePlan(), {key: getattr(observe, key) for key in OBSERVE_KEYS}
    found = {key: value for key, value in values.items() if value != getattr(usual, key)}
    return {"observe": found} if found else {}


def _slo_document(deployment: Deployment) -> dict[str, object]:
    slo = {"ttft": deployment.ttft_slo_s, "tpot": deployment.tpot_slo_s}
    given: dict[str, object] = {k: _duration(s) for k, s in slo.items() if s is not None}
    if given and deployment.attainment_slo != Deployment.attainment_slo:
        given["attainment"] = deployment.attainment_slo
    return {"slo": given} if given else {}


def _planned_document(planned: PlannedFor) -> dict[str, object]:
    usual = PlannedFor(gpus="")
    values = {key: getattr(planned, key) for key in PLANNED_KEYS}
    return {key: value for key, value in values.items() if value != getattr(usual, key)}


def _role_document(plan: RolePlan) -> dict[str, object]:
    document: dict[str, object] = {"engines": plan.engines}
    for size in ("tp", "pp", "dp", "ep"):
        if getattr(plan.parallelism, size) != 1:
            document[size] = getattr(plan.parallelism, size)
    if plan.args:
        document["args"] = shlex.join(plan.args)
    if plan.env:
        document["env"] = dict(plan.env)
    if plan.image:
        document["image"] = plan.image
    return document


def _router_document(router: RouterPlan) -> dict[str, object]:
    usual = RouterPlan()
    document = {
        key: getattr(router, key)
        for key in ("host", "port", "policy")
        if getattr(router, key) != getattr(usual, key)
    }
    return {**document, "args": shlex.join(router.args)} if router.args else document


def _duration(seconds: float) -> str:
    shorter = f"{seconds * 1e3:g}ms" if seconds < 1 else f"{seconds:g}s"
    exact = parse_latency_s(shorter, flag="slo") == seconds
    return shorter if exact else f"{seconds!r}s"
