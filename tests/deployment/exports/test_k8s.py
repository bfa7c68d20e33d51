import argparse
import json
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from sglang_router.router_args import RouterArgs

from pdctl.deployment.cluster_file import ClusterFile, KubernetesSettings
from pdctl.deployment.elsewhere import expand_in_pods
from pdctl.deployment.exports.k8s import (
    ADDRESS,
    Workloads,
    disaggregated_set,
    k8s,
    one_each,
    role_based_group,
)
from pdctl.deployment.records import Deployment, PlacePolicy
from pdctl.deployment.sglang_flags import options
from pdctl.errors import InvalidInput
from pdctl.perf_model.records import Parallelism
from tests.deployment.examples import colocated, split

VERSION = "1.30"
# libyaml's reads the same language in a tenth of the time
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
SMALL = Parallelism(tp=2)
LARGE = Parallelism(tp=16)
IMAGE = ClusterFile(kubernetes=KubernetesSettings(image="registry/sglang:1", model_claim="models"))


def manifests(deployment: Deployment, workloads: Workloads = one_each) -> list[dict[str, Any]]:
    text = k8s(expand_in_pods(deployment, IMAGE, address=ADDRESS), IMAGE, workloads)
    assert "&id" not in text, "no YAML anchors, which people cannot edit"
    return list(yaml.load_all(text, Loader=LOADER))


def named(found: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (one,) = [m for m in found if m["kind"] == kind and m["metadata"]["name"] == name]
    return one


def container(workload: dict[str, Any]) -> dict[str, Any]:
    (one,) = workload["spec"]["template"]["spec"]["containers"]
    assert isinstance(one, dict)
    return one


def started(found: list[dict[str, Any]], container: dict[str, Any], edited: str = "") -> list[str]:
    """The command line that a pod comes to, with the flags of the ConfigMap, by its own shell."""
    (config,) = [m for m in found if m["kind"] == "ConfigMap"]
    shell = list(container["command"])
    flags = edited or config["data"][Path(shell[3]).name]
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(flags)
        file.flush()
        argv = (*shell[:3], file.name, "printf", "%s\\0", *container["args"])
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return done.stdout.split("\0")[:-1]


def router_args(found: list[dict[str, Any]]) -> RouterArgs:
    """The router's flags as the router itself reads them."""
    parser = argparse.ArgumentParser()
    RouterArgs.add_cli_args(parser, use_router_prefix=False)
    argv = started(found, container(named(found, "Deployment", "llama-router")))[3:]
    return RouterArgs.from_cli_args(parser.parse_args(argv), use_router_prefix=False)


@pytest.mark.parametrize("deployment", [split(parallelism=SMALL), colocated()])
def test_kubernetes_schemas_accept_every_manifest(deployment: Deployment) -> None:
    found = manifests(deployment)
    for manifest in found:
        kubernetes_validate.validate(manifest, VERSION, strict=True)
    workloads = [m["metadata"]["name"] for m in found if m["kind"] == "Deployment"]
    assert len(workloads) == len(deployment.roles) + 1


def test_an_engine_of_two_nodes_is_a_leader_worker_set() -> None:
    found = manifests(split(2, 3, parallelism=LARGE))
    for manifest in (m for m in found if m["kind"] != "LeaderWorkerSet"):
        kubernetes_validate.validate(manifest, VERSION, strict=True)
    decode = named(found, "LeaderWorkerSet", "llama-decode")
    assert decode["apiVersion"] == "leaderworkerset.x-k8s.io/v1"
    assert set(decode["spec"]) == {"replicas", "leaderWorkerTemplate"}
    group = decode["spec"]["leaderWorkerTemplate"]
    assert (decode["spec"]["replicas"], group["size"]) == (3, 2)
    assert group["restartPolicy"] == "RecreateGroupOnPodRestart"
    templates = group["leaderTemplate"], group["workerTemplate"]
    for template in templates:
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "template": template}
        kubernetes_validate.validate(pod, VERSION, strict=True)
        (engine,) = template["spec"]["containers"]
        assert engine["resources"]["limits"] == {"nvidia.com/gpu": 8}
        command = " ".join(engine["args"])
        assert "--dist-init-addr $(LWS_LEADER_ADDRESS):" in command
        assert "--nnodes $(LWS_GROUP_SIZE) --node-rank $(LWS_WORKER_INDEX)" in command
    assert "readinessProbe" in templates[0]["spec"]["containers"][0]
    assert "readinessProbe" not in templates[1]["spec"]["containers"][0], "its /health lies"


def test_a_simulated_engine_of_two_nodes_knows_its_ranks_without_an_address_to_meet_at() -> None:
    found = manifests(split(1, 1, parallelism=LARGE, engine="sim", gpus="4x8xH200"))
    for name in ("llama-prefill", "llama-decode"):
        group = named(found, "LeaderWorkerSet", name)["spec"]["leaderWorkerTemplate"]
        for template in (group["leaderTemplate"], group["workerTemplate"]):
            command = " ".join(check_pod(template)["args"])
            assert "--nnodes $(LWS_GROUP_SIZE) --node-rank $(LWS_WORKER_INDEX)" in command
            assert "--dist-init-addr" not in command


def checked(found: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    """The roles of the one object of this kind, which its CRD accepts."""
    for manifest in (m for m in found if m["kind"] != kind):
        kubernetes_validate.validate(manifest, VERSION, strict=True)
    whole = named(found, kind, "llama")
    resource_definition(kind).validate(whole)
    assert whole["apiVersion"].count("/") == 1
    return {role["name"]: role for role in whole["spec"]["roles"]}


@cache
def resource_definition(kind: str) -> jsonschema.protocols.Validator:
    """The schema of a CRD, itself checked."""
    path = Path(__file__).parents[2] / "data" / "k8s" / f"{kind.lower()}.yaml"
    schema = yaml.load(path.read_text(), Loader=LOADER)
    of_its_draft = jsonschema.validators.validator_for(schema)
    of_its_draft.check_schema(schema)
    return of_its_draft(schema)


def check_pod(template: dict[str, Any]) -> dict[str, Any]:
    """The container of a pod template that Kubernetes accepts."""
    pod = {"apiVersion": "v1", "kind": "PodTemplate", "template": template}
    kubernetes_validate.validate(pod, VERSION, strict=True)
    (engine,) = template["spec"]["containers"]
    assert isinstance(engine, dict)
    return engine


@pytest.mark.parametrize("parallelism", [SMALL, LARGE])
def test_a_disaggregated_set_holds_both_roles(parallelism: Parallelism) -> None:
    found = manifests(split(2, 3, parallelism=parallelism), disaggregated_set)
    roles = checked(found, "DisaggregatedSet")
    assert {name: role["spec"]["replicas"] for name, role in roles.items()} == {
        "prefill": 2,
        "decode": 3,
    }
    for name, role in roles.items():
        group = role["spec"]["leaderWorkerTemplate"]
        first = group.get("leaderTemplate") or group["workerTemplate"]
        assert group["size"] == (1 if parallelism is SMALL else 2)
        assert first["metadata"]["labels"] == {"app": "llama", "role": name}
        assert "readinessProbe" in check_pod(first)
        check_pod(group["workerTemplate"])


def test_a_disaggregated_set_of_one_role_is_refused() -> None:
    with pytest.raises(InvalidInput, match="this deployment is colocated"):
        manifests(colocated(), disaggregated_set)


@pytest.mark.parametrize("deployment", [split(2, 3, parallelism=SMALL), colocated()])
def test_a_role_based_group_has_pods_that_can_be_scaled(deployment: Deployment) -> None:
    roles = checked(manifests(deployment, role_based_group), "RoleBasedGroup")
    assert roles.keys() == deployment.roles.keys()
    for name, role in roles.items():
        assert role["replicas"] == deployment.roles[role["name"]].engines
        assert role["scalingAdapter"] == {"enable": True}
        template = role["standalonePattern"]["template"]
        assert template["metadata"]["labels"] == {"app": "llama", "role": name}
        assert "readinessProbe" in check_pod(template)


def test_only_leaders_of_a_role_based_group_serve() -> None:
    found = manifests(split(2, 3, parallelism=LARGE), role_based_group)
    for name, role in checked(found, "RoleBasedGroup").items():
        pattern = role["leaderWorkerPattern"]
        assert pattern["size"] == 2
        engine = check_pod(pattern["template"])
        assert "readinessProbe" not in engine
        command = " ".join(engine["args"])
        assert "--dist-init-addr $(RBG_LWP_LEADER_ADDRESS):" in command
        assert "--nnodes $(RBG_LWP_GROUP_SIZE) --node-rank $(RBG_LWP_WORKER_INDEX)" in command
        leader, follower = pattern["leaderTemplatePatch"], pattern["workerTemplatePatch"]
        assert leader["metadata"]["labels"] == {"app": "llama", "role": name}
        assert follower["metadata"]["labels"]["role"] == f"{name}-follower"
        (patch,) = leader["spec"]["containers"]
        assert patch["name"] == engine["name"], "Kubernetes merges containers by their names"
        assert check_pod({"spec": {"containers": [{**engine, **patch}]}})["readinessProbe"]
        bootstrap = leader["metadata"]["annotations"]
        assert ("sglang.ai/bootstrap-port" in bootstrap) == (name == "prefill")


def test_the_router_finds_leaders_by_their_labels_and_bootstrap_ports() -> None:
    for parallelism in (SMALL, LARGE):
        found = manifests(split(2, 3, parallelism=parallelism))
        args = router_args(found)
        assert args.service_discovery
        assert args.pd_disaggregation
        for role, selector in (
            ("prefill", args.prefill_selector),
            ("decode", args.decode_selector),
        ):
            kind = "Deployment" if parallelism is SMALL else "LeaderWorkerSet"
            spec = named(found, kind, f"llama-{role}")["spec"]
            group = spec.get("leaderWorkerTemplate", {})
            template = group.get("leaderTemplate") or spec["template"]
            assert selector == template["metadata"]["labels"]
            assert group.get("workerTemplate", {}).get("metadata", {}).get("labels") != selector
            (engine,) = template["spec"]["containers"]
            ports = {p["name"]: p["containerPort"] for p in engine["ports"]}
            assert ports["http"] == args.service_discovery_port
            if role == "prefill":
                annotation = template["metadata"]["annotations"][args.bootstrap_port_annotation]
                assert int(annotation) == ports["bootstrap"]


ODD = ("--json-model-override-args", '{"a": "b  $(c)"}', "--cuda-graph-bs-decode", "1", "2")


def test_a_pod_comes_to_the_flags_of_the_configuration() -> None:
    deployment = split()
    odd = (*ODD, "--json-model-override-args=x y", "--enable-eplb", "--chat-template", " a\n'b' ")
    roles = {**deployment.roles, "decode": replace(deployment.roles["decode"], args=odd)}
    planned = expand_in_pods(replace(deployment, roles=roles), IMAGE, address=ADDRESS)
    found = manifests(planned.deployment)
    for spec in planned.specs:
        argv = started(found, container(named(found, "Deployment", f"llama-{spec.role}")))
        own = Counter(spec.argv)
        if spec.role == "router":
            assert own <= Counter(argv)
        else:
            assert own == Counter(argv)
            assert options(argv[3:]) == options(spec.argv[3:])


def test_flags_that_a_person_may_edit_are_lines_of_one_object() -> None:
    deployment = split()
    roles = {**deployment.roles, "decode": replace(deployment.roles["decode"], args=ODD[2:])}
    found = manifests(replace(deployment, roles=roles))
    config = named(found, "ConfigMap", "llama-config")["data"]
    assert set(config) == {"prefill.flags", "decode.flags", "router.flags"}
    assert "--model-path llama-3.1-8b" in config["decode.flags"].splitlines()
    assert config["decode.flags"].splitlines()[-3:] == ["--cuda-graph-bs-decode", "1", "2"]
    assert "--port" not in "".join(config.values()), "probes and the service have it too"

    engine = container(named(found, "Deployment", "llama-decode"))
    edited = "# less memory\n\n--mem-fraction-static 0.8\n--chat-template a b"
    assert started(found, engine, edited)[-4:] == [
        *("--mem-fraction-static", "0.8", "--chat-template", "a b")
    ]
    annotations = [
        named(manifests(one), "Deployment", f"llama-{role}")["spec"]["template"]["metadata"][
            "annotations"
        ]["pdctl/flags"]
        for one in (deployment, replace(deployment, roles=roles))
        for role in ("prefill", "decode")
    ]
    assert annotations[0] == annotations[2], "pods of a role whose flags stay are not replaced"
    assert annotations[1] != annotations[3]


def test_a_start_may_take_two_hours_and_a_leaving_engine_finishes() -> None:
    for name in ("llama-prefill", "llama-decode"):
        workload = named(manifests(split()), "Deployment", name)
        probe = container(workload)["startupProbe"]
        assert probe["periodSeconds"] * probe["failureThreshold"] == 2 * 3600
        assert workload["spec"]["progressDeadlineSeconds"] >= 2 * 3600
        grace = workload["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        wait = int(container(workload)["lifecycle"]["preStop"]["exec"]["command"][1])
        assert grace - wait >= 180


def test_pods_get_gpus_models_memory_and_their_own_address() -> None:
    workload = named(manifests(split(parallelism=SMALL)), "Deployment", "llama-decode")
    engine = container(workload)
    assert engine["resources"]["limits"] == {"nvidia.com/gpu": 2}
    mounts = {m["mountPath"] for m in engine["volumeMounts"]}
    assert mounts == {"/dev/shm", "/models", "/etc/pdctl"}
    names = [variable["name"] for variable in engine["env"]]
    assert names.index("POD_IP") < names.index("SGLANG_HOST_IP"), "one refers to the other"
    assert "CUDA_VISIBLE_DEVICES" not in names
    assert engine["args"][engine["args"].index("--host") + 1] == "$(POD_IP)"


@pytest.mark.parametrize("parallelism", [SMALL, LARGE])
def test_a_policy_is_a_wish_to_the_scheduler(parallelism: Parallelism) -> None:
    def pods(place: PlacePolicy) -> dict[str, Any]:
        found = manifests(split(2, 3, parallelism=parallelism, place=place))
        kind = "Deployment" if parallelism is SMALL else "LeaderWorkerSet"
        spec = named(found, kind, "llama-decode")["spec"]
        template = spec.get("template") or spec["leaderWorkerTemplate"]["leaderTemplate"]
        check_pod(template)
        assert isinstance(template, dict)
        return template

    assert not {"affinity", "topologySpreadConstraints"} & {*pods("auto")["spec"]}
    spread = pods("spread")
    (wish,) = spread["spec"]["topologySpreadConstraints"]
    assert wish["labelSelector"]["matchLabels"] == spread["metadata"]["labels"]
    affinity = pods("domain")["spec"]["affinity"]["podAffinity"]
    (must,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]
    assert must["topologyKey"] == "nvidia.com/gpu.clique"
    (roles,) = must["labelSelector"]["matchExpressions"]
    assert "router" not in roles["values"], "its node need not be in the domain"
    assert {"prefill", "decode", "decode-follower"} <= {*roles["values"]}
    assert (
        "preferredDuringSchedulingIgnoredDuringExecution"
        in (pods("pack")["spec"]["affinity"]["podAffinity"])
    )


def test_names_are_such_as_kubernetes_allows() -> None:
    for name in ("Qwen3_32B.v2", "8b", "x" * 64):
        for manifest in manifests(replace(split(), name=name)):
            shown = manifest["metadata"]["name"]
            assert len(shown) <= 63
            assert shown[0].isalpha()
            assert shown.replace("-", "").isalnum()
            assert shown == shown.lower()


NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?")


def within(found: Any, key: str) -> Iterator[dict[str, Any]]:
    """Every object, at any depth, that has a key."""
    if isinstance(found, dict):
        if key in found:
            yield found
        found = list(found.values())
    for one in found if isinstance(found, list) else ():
        yield from within(one, key)


def refusals_of_a_server(found: list[dict[str, Any]]) -> Iterator[str]:
    """What an API server or the kubelet refuses although each object fits its schema."""
    kinds = {(m["kind"], m["metadata"]["name"]) for m in found}
    if len(kinds) < len(found):
        yield "two objects of one name"
    for labelled in within(found, "labels"):
        yield from (f"label {v}" for v in labelled["labels"].values() if not LABEL.fullmatch(v))
    for named_ in within(found, "metadata"):
        if not NAME.fullmatch(named_["metadata"].get("name", "pod")):
            yield f"name {named_['metadata']['name']}"
    for workload in within(found, "template"):
        chosen = workload.get("selector", {}).get("matchLabels", {})
        own = workload["template"].get("metadata", {}).get("labels", {})
        if not chosen.items() <= own.items():
            yield f"selector {chosen}"
    for pod in within(found, "containers"):
        yield from _refused_pod(pod, kinds)


def _refused_pod(pod: dict[str, Any], kinds: set[tuple[str, str]]) -> Iterator[str]:
    volumes = {volume["name"]: volume for volume in pod.get("volumes", ())}
    wanted = {("ConfigMap", v["configMap"]["name"]) for v in volumes.values() if "configMap" in v}
    if "serviceAccountName" in pod:
        wanted.add(("ServiceAccount", pod["serviceAccountName"]))
    yield from (f"no {kind} {name}" for kind, name in sorted(wanted - kinds))
    for one in pod["containers"]:
        mounts = one.get("volumeMounts", ())
        yield from (f"mount {m['name']}" for m in mounts if m["name"] not in volumes)
        paths = [mount["mountPath"] for mount in mounts]
        ports = {port["name"]: port["containerPort"] for port in one.get("ports", ())}
        yield from (f"port {name}" for name in ports if not PORT_NAME.fullmatch(name))
        if len(set(paths)) < len(paths) or len(set(ports.values())) < len(one.get("ports", ())):
            yield f"twice the same mount or port in {one['name']}"
        for probe in within(one, "httpGet"):
            if probe["httpGet"]["port"] not in (*ports, *ports.values()):
                yield f"a probe of port {probe['httpGet']['port']}"
        resources = one.get("resources", {})
        for name, num in resources.get("requests", {}).items():
            if "/" in name and resources.get("limits", {}).get(name) != num:
                yield f"a request of {name} beside another limit"


@pytest.mark.parametrize("workloads", [one_each, disaggregated_set, role_based_group])
@pytest.mark.parametrize("parallelism", [SMALL, LARGE])
@pytest.mark.parametrize("place", ["auto", "spread", "domain"])
def test_a_server_refuses_no_manifest(
    workloads: Workloads, parallelism: Parallelism, place: PlacePolicy
) -> None:
    for name in ("llama", "Qwen3_32B.v2", "8b", f"{'x' * 39}-{'y' * 30}"):
        deployment = split(2, 3, parallelism=parallelism, place=place, name=name)
        found = manifests(deployment, workloads)
        assert [*refusals_of_a_server(found)] == []
        broken = json.loads(json.dumps(found).replace('"name": "shared-memory"', '"name": "x_"', 1))
        assert [*refusals_of_a_server(broken)]


def test_an_image_that_nobody_named_is_said_to_be_assumed() -> None:
    bare = ClusterFile()
    text = k8s(expand_in_pods(split(), bare, address=ADDRESS), bare)
    assert "# The image is assumed: lmsysorg/sglang:v0.5.23." in text
