"""A deployment as Kubernetes manifests: engines of one role are replicas, the router finds them."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pdctl.deployment.cluster_file import ClusterFile, cluster_here
from pdctl.deployment.elsewhere import ASSUMED_SGLANG, Elsewhere, expand_in_pods
from pdctl.deployment.exports.k8s_flags import CONFIG, CONFIG_MOUNT, Command, flag_files
from pdctl.deployment.records import Deployment, ProcessSpec
from pdctl.errors import InvalidInput
from pdctl.perf_model.records import Role

ADDRESS = "$(POD_IP)"  # Kubernetes puts the pod's address there when the container starts
BOOTSTRAP_ANNOTATION = "sglang.ai/bootstrap-port"  # where the router reads it
HOST, NVLINK_DOMAIN = "kubernetes.io/hostname", "nvidia.com/gpu.clique"  # labels of nodes
ENGINE = "engine"  # the name of the container
MODELS = "/models"
MAX_NAME = 40  # pods get a suffix, and no name may be longer than 63
START_PERIOD_S, START_TRIES = 10, 720  # two hours to load weights and compile kernels
LEAVING_S = 20  # the router's discovery and its health checks see a leaving pod before it stops
ENGINE_GRACE_S = 180
ROUTER_GRACE_S = 200  # the router finishes its requests for 180 s

Manifest = dict[str, Any]


@dataclass(frozen=True)
class _Pods:
    """The pods of one role. engine: the first one's process, whose ports all can use.

    group: the prefix of the variables that tell a pod its place in an engine of several nodes.
    """

    deployment: Deployment
    cluster: ClusterFile
    engine: ProcessSpec
    health: str
    group: str = "LWS"

    @property
    def role(self) -> Role:
        assert self.engine.role != "router"
        return self.engine.role

    @property
    def num_gpus(self) -> int:
        return self.deployment.roles[self.role].parallelism.num_gpus

    @property
    def num_hosts(self) -> int:
        return -(-self.num_gpus // self.cluster.gpus_per_node)

    @property
    def num_engines(self) -> int:
        return self.deployment.roles[self.role].engines

    @property
    def labels(self) -> dict[str, str]:
        return _labels(self.deployment, self.role)

    @property
    def follower_labels(self) -> dict[str, str]:
        return _labels(self.deployment, f"{self.role}-follower")


Workloads = Callable[[Sequence[_Pods]], list[Manifest]]


def renderer(workloads: Workloads) -> Callable[[Deployment, Sequence[ProcessSpec]], str]:
    """An export that writes manifests for the cluster that cluster.yaml describes; see `k8s`."""

    def render(deployment: Deployment, specs: Sequence[ProcessSpec]) -> str:
        cluster = cluster_here()
        planned = expand_in_pods(deployment, cluster, address=ADDRESS)
        return k8s(planned, cluster, workloads)

    return render


def one_each(pods: Sequence[_Pods]) -> list[Manifest]:
    """A Deployment for each role; a LeaderWorkerSet where an engine is larger than a node."""
    return [_leader_worker_set(one) if one.num_hosts > 1 else _deployment(one) for one in pods]


def disaggregated_set(pods: Sequence[_Pods]) -> list[Manifest]:
    """One DisaggregatedSet, which updates its roles together.

    Source: kubernetes-sigs/lws, api/disaggregatedset/v1. Raises InvalidInput for one role alone.
    """
    if len(pods) < 2:
        raise InvalidInput(
            "A DisaggregatedSet has prefill and decode; this deployment is colocated.",
            hint="pdctl render k8s without --as",
        )
    roles = [{"name": one.role, "spec": _group_spec(one)} for one in pods]
    return [_whole(pods, "disaggregatedset.x-k8s.io/v1", "DisaggregatedSet", roles)]


def role_based_group(pods: Sequence[_Pods]) -> list[Manifest]:
    """One RoleBasedGroup, with an adapter by which each role can be scaled.

    Source: sgl-project/rbg, api/workloads/v1alpha2.
    """
    roles = [_group_role(replace(one, group="RBG_LWP")) for one in pods]
    return [_whole(pods, "workloads.x-k8s.io/v1alpha2", "RoleBasedGroup", roles)]


def _whole(pods: Sequence[_Pods], version: str, kind: str, roles: list[Manifest]) -> Manifest:
    name = _name(pods[0].deployment)
    metadata = {"name": name, "labels": {"app": name}}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": {"roles": roles}}


def k8s(planned: Elsewhere, cluster: ClusterFile, workloads: Workloads = one_each) -> str:
    """The manifests of a deployment: flags, accounts, engines, router, service.

    The number of engines of a role may change at any time: the router discovers pods by labels.

    Args:
        planned: expanded with ADDRESS as the address of every engine.

        cluster: without an image, that of the SGLang which the flags are for is assumed.

        workloads: the objects that run the engines.
    """
    import yaml

    deployment, router = planned.deployment, planned.specs[0]
    first = {spec.role: spec for spec in reversed(planned.specs[1:])}
    health = _health(router)
    pods = [_Pods(deployment, cluster, first[role], health) for role in deployment.roles]
    documents = [
        _config(deployment, router, pods),
        *_account(deployment, cluster.kubernetes.namespace),
        *workloads(pods),
        _router(deployment, cluster, router, pods),
        _service(deployment, router),
    ]
    for document in documents:
        document["metadata"]["namespace"] = cluster.kubernetes.namespace
    assumed = () if cluster.kubernetes.image else (f"The image is assumed: {_image(cluster)}.",)
    head = ("kubectl apply -f this-file; from pdctl render k8s", *planned.notes, *assumed)
    return "".join(f"# {line}\n" for line in head) + yaml.dump_all(
        documents, Dumper=_readable(), sort_keys=False, width=4096
    )


def _readable() -> Any:
    """A dumper that writes texts of several lines as they are."""
    import yaml

    class Readable(yaml.SafeDumper):
        pass

    def text(dumper: Any, value: str) -> Any:
        style = "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Readable.add_representer(str, text)
    Readable.ignore_aliases = lambda *_: True  # type: ignore[method-assign]
    return Readable


def _image(cluster: ClusterFile) -> str:
    return cluster.kubernetes.image or f"lmsysorg/sglang:v{ASSUMED_SGLANG}"


def _health(router: ProcessSpec) -> str:
    """The path that the router asks too: /ready answers at once where SGLang has it."""
    argv = router.argv
    flag = "--health-check-endpoint"
    return argv[argv.index(flag) + 1] if flag in argv else "/health"


def _labels(deployment: Deployment, role: str) -> dict[str, str]:
    return {"app": _name(deployment), "role": role}


def _metadata(deployment: Deployment, role: str) -> Manifest:
    return {"name": f"{_name(deployment)}-{role}", "labels": _labels(deployment, role)}


def _name(deployment: Deployment) -> str:
    """A name as Kubernetes allows it: lower case, digits and hyphens, beginning with a letter."""
    name = re.sub("[^a-z0-9]+", "-", deployment.name.lower()).strip("-")[:MAX_NAME].strip("-")
    return name if name[:1].isalpha() else f"pd-{name}"


def _deployment(pods: _Pods) -> Manifest:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(pods.deployment, pods.role),
        "spec": {
            "replicas": pods.num_engines,
            "selector": {"matchLabels": pods.labels},
            # GPUs are scarce: an engine leaves before its successor starts
            "strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
            "progressDeadlineSeconds": START_PERIOD_S * START_TRIES,
            "template": _engine_template(pods, pods.labels, serves=True),
        },
    }


def _leader_worker_set(pods: _Pods) -> Manifest:
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": _metadata(pods.deployment, pods.role),
        "spec": _group_spec(pods),
    }


def _group_spec(pods: _Pods) -> Manifest:
    """The engines of a role, each a group of pods on as many nodes as it needs."""
    serving = _engine_template(pods, pods.labels, serves=True)
    template: Manifest = {"size": pods.num_hosts, "restartPolicy": "RecreateGroupOnPodRestart"}
    if pods.num_hosts > 1:
        template["leaderTemplate"] = serving
        template["workerTemplate"] = _engine_template(pods, pods.follower_labels, serves=False)
    else:
        template["workerTemplate"] = serving
    return {"replicas": pods.num_engines, "leaderWorkerTemplate": template}


def _group_role(pods: _Pods) -> Manifest:
    """A role of a RoleBasedGroup. Its pattern has one template, which leaders and others patch."""
    role: Manifest = {
        "name": pods.role,
        "replicas": pods.num_engines,
        "scalingAdapter": {"enable": True},
    }
    if pods.num_hosts == 1:
        template = _engine_template(pods, pods.labels, serves=True)
        return {**role, "standalonePattern": {"template": template}}
    pattern = {
        "size": pods.num_hosts,
        "restartPolicy": {"type": "RecreateRoleInstanceOnPodRestart"},
        "template": _engine_template(pods, {"app": pods.labels["app"]}, serves=False),
        "leaderTemplatePatch": {
            "metadata": {"labels": pods.labels, "annotations": _annotations(pods)},
            "spec": {"containers": [{"name": ENGINE, **_serving(pods)}]},
        },
        "workerTemplatePatch": {"metadata": {"labels": pods.follower_labels}},
    }
    return {**role, "leaderWorkerPattern": pattern}


def _engine_template(pods: _Pods, labels: dict[str, str], *, serves: bool) -> Manifest:
    """A pod of an engine. serves: it answers requests; other ranks answer health checks falsely."""
    settings = pods.cluster.kubernetes
    container: Manifest = {
        "name": ENGINE,
        "image": _image(pods.cluster),
        **Command.of(_engine_command(pods)).container(pods.role),
        "env": [_pod_ip(), *_env(pods.engine)],
        "resources": {
            "limits": {settings.gpu_resource: min(pods.num_gpus, pods.cluster.gpus_per_node)}
        },
        "volumeMounts": [*_mounts(pods.cluster), CONFIG_MOUNT],
    }
    annotations = Command.of(_engine_command(pods)).annotation
    return {
        "metadata": {
            "labels": labels,
            "annotations": {**annotations, **(_annotations(pods) if serves else {})},
        },
        "spec": {
            **_placement(pods, labels),
            "terminationGracePeriodSeconds": ENGINE_GRACE_S + LEAVING_S,
            "containers": [{**container, **(_serving(pods) if serves else {})}],
            "volumes": [*_volumes(pods.cluster), _config_volume(pods.deployment)],
        },
    }


def _placement(pods: _Pods, labels: dict[str, str]) -> Manifest:
    """The nodes that the scheduler should prefer, or must take; without a policy its own choice.

    Source: Kubernetes documentation of pod topology spread and affinity; the label of NVLink
        domains is that of NVIDIA's GPU feature discovery.
    """
    if pods.deployment.place == "auto":
        return {}
    if pods.deployment.place == "spread":
        wish = {"maxSkew": 1, "topologyKey": HOST, "whenUnsatisfiable": "ScheduleAnyway"}
        return {"topologySpreadConstraints": [{**wish, "labelSelector": {"matchLabels": labels}}]}
    roles = [name for role in pods.deployment.roles for name in (role, f"{role}-follower")]
    selector = {
        "matchLabels": {"app": labels["app"]},
        "matchExpressions": [{"key": "role", "operator": "In", "values": roles}],
    }
    if pods.deployment.place == "domain":
        term = {"topologyKey": NVLINK_DOMAIN, "labelSelector": selector}
        terms: Manifest = {"requiredDuringSchedulingIgnoredDuringExecution": [term]}
    else:
        near = {"topologyKey": HOST, "labelSelector": selector}
        weighed = {"weight": 100, "podAffinityTerm": near}
        terms = {"preferredDuringSchedulingIgnoredDuringExecution": [weighed]}
    return {"affinity": {"podAffinity": terms}}


def _annotations(pods: _Pods) -> dict[str, str]:
    port = pods.engine.bootstrap_port
    return {BOOTSTRAP_ANNOTATION: str(port)} if port else {}


def _serving(pods: _Pods) -> Manifest:
    """The part of a container that only rank 0 of an engine has."""
    return {
        "ports": _ports(pods.engine),
        **_probes(pods.engine.port, ready=pods.health, alive="/health", alive_tries=8),
        "lifecycle": _leave_first(),
    }


def _engine_command(pods: _Pods) -> list[str]:
    argv = list(pods.engine.argv)
    if pods.num_hosts > 1:
        if "--dist-init-addr" in argv:  # simulated ranks never meet
            at = argv.index("--dist-init-addr") + 1
            argv[at] = argv[at].replace(ADDRESS, f"$({pods.group}_LEADER_ADDRESS)")
        argv += ["--nnodes", f"$({pods.group}_GROUP_SIZE)"]
        argv += ["--node-rank", f"$({pods.group}_WORKER_INDEX)"]
    return argv


def _ports(engine: ProcessSpec) -> list[Manifest]:
    ports: list[Manifest] = [{"name": "http", "containerPort": engine.port}]
    if engine.bootstrap_port:
        ports.append({"name": "bootstrap", "containerPort": engine.bootstrap_port})
    return ports


def _pod_ip() -> Manifest:
    return {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}


def _env(spec: ProcessSpec) -> list[Manifest]:
    """The environment, without the GPU numbers: the device plugin gives a pod its GPUs."""
    left_out = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")
    return [{"name": n, "value": v} for n, v in sorted(spec.env.items()) if n not in left_out]


def _probes(port: int, *, ready: str, alive: str, alive_tries: int) -> Manifest:
    def get(path: str) -> Manifest:
        return {"httpGet": {"path": path, "port": port}, "timeoutSeconds": 20}

    start = {"periodSeconds": START_PERIOD_S, "failureThreshold": START_TRIES}
    return {
        "startupProbe": {**get(ready), **start},
        "readinessProbe": {**get(ready), "periodSeconds": 5, "failureThreshold": 2},
        "livenessProbe": {**get(alive), "periodSeconds": 30, "failureThreshold": alive_tries},
    }


def _leave_first() -> Manifest:
    return {"preStop": {"exec": {"command": ["sleep", str(LEAVING_S)]}}}


def _mounts(cluster: ClusterFile) -> list[Manifest]:
    models = {"name": "models", "mountPath": MODELS, "readOnly": True}
    shm = {"name": "shared-memory", "mountPath": "/dev/shm"}
    return [shm, models] if cluster.kubernetes.model_claim else [shm]


def _volumes(cluster: ClusterFile) -> list[Manifest]:
    settings = cluster.kubernetes
    memory = {"medium": "Memory", "sizeLimit": settings.shared_memory}
    shm: Manifest = {"name": "shared-memory", "emptyDir": memory}
    claim = {"claimName": settings.model_claim, "readOnly": True}
    models: Manifest = {"name": "models", "persistentVolumeClaim": claim}
    return [shm, models] if settings.model_claim else [shm]


def _account(deployment: Deployment, namespace: str) -> list[Manifest]:
    """The account that lets the router list pods."""
    name = _metadata(deployment, "router")["name"]

    def metadata() -> Manifest:
        return _metadata(deployment, "router")

    rule = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}
    rbac = "rbac.authorization.k8s.io"
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata()},
        {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": metadata(), "rules": [rule]},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": metadata(),
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
        },
    ]


def _router(
    deployment: Deployment, cluster: ClusterFile, router: ProcessSpec, pods: Sequence[_Pods]
) -> Manifest:
    command = Command.of(router.argv)
    container: Manifest = {
        "name": "router",
        "image": _image(cluster),
        **Command((*command.fixed, *_discovery(pods)), command.flags).container("router"),
        "env": [_pod_ip(), _namespace(), *_env(router)],
        "ports": [{"name": "http", "containerPort": router.port}],
        "volumeMounts": [CONFIG_MOUNT],
        **_probes(router.port, ready="/readiness", alive="/health", alive_tries=3),
        "lifecycle": _leave_first(),
    }
    # the router is up long before its engines are
    container["startupProbe"] = {**container["startupProbe"]}
    container["startupProbe"]["httpGet"] = {"path": "/health", "port": router.port}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(deployment, "router"),
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": _labels(deployment, "router")},
            "template": {
                "metadata": {
                    "labels": _labels(deployment, "router"),
                    "annotations": command.annotation,
                },
                "spec": {
                    "serviceAccountName": _metadata(deployment, "router")["name"],
                    "terminationGracePeriodSeconds": ROUTER_GRACE_S + LEAVING_S,
                    "containers": [container],
                    "volumes": [_config_volume(deployment)],
                },
            },
        },
    }


def _config(deployment: Deployment, router: ProcessSpec, pods: Sequence[_Pods]) -> Manifest:
    """The flags of every role, one file each."""
    commands: dict[str, Command] = {one.role: Command.of(one.engine.argv) for one in pods}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(deployment, CONFIG),
        "data": flag_files({**commands, "router": Command.of(router.argv)}),
    }


def _config_volume(deployment: Deployment) -> Manifest:
    return {"name": CONFIG, "configMap": {"name": _metadata(deployment, CONFIG)["name"]}}


def _discovery(pods: Sequence[_Pods]) -> list[str]:
    flags = ["--service-discovery", "--service-discovery-namespace", "$(POD_NAMESPACE)"]
    flags += ["--service-discovery-port", str(pods[0].engine.port)]
    for one in pods:
        flag = {"prefill": "--prefill-selector", "decode": "--decode-selector"}
        flags.append(flag.get(one.role, "--selector"))
        flags += [f"{key}={value}" for key, value in one.labels.items()]
    return flags


def _namespace() -> Manifest:
    field = {"fieldRef": {"fieldPath": "metadata.namespace"}}
    return {"name": "POD_NAMESPACE", "valueFrom": field}


def _service(deployment: Deployment, router: ProcessSpec) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(deployment, "router"),
        "spec": {
            "selector": _labels(deployment, "router"),
            "ports": [{"name": "http", "port": 80, "targetPort": router.port}],
        },
    }
