from dataclasses import replace
from pathlib import Path

import pytest

from pdctl.deployment.cluster_file import (
    ClusterFile,
    HostSettings,
    KubernetesSettings,
    RdmaSettings,
    SlurmSettings,
    cluster_here,
    cluster_text,
    network_env,
    on_cluster,
    read_cluster_file,
)
from pdctl.deployment.containers import container_of
from pdctl.deployment.records import Container
from pdctl.errors import InvalidInput
from tests.deployment.examples import split

EVERYTHING = """\
schema: 1
gpus_per_node: 4
interface: bond0
rdma: {gid_index: 3, traffic_class: 106, mnnvl: true, cards: [mlx5_0, mlx5_1]}
hosts:
  node3: {gpus: 2, cards: [mlx5_0], domain: rack1}
place: spread
stage: /local/nvme
python: /shared/sglang/bin/python
preamble: |
  module load cuda/12.8
  ulimit -l unlimited
models:
  r1: /lustre/models/DeepSeek-R1
images: {new: registry/sglang:2}
env: {NCCL_IB_HCA: mlx5_0, SHARED: everywhere}
container: {runtime: docker, image: registry/sglang:1, devices: [/dev/infiniband]}
prefill:
  env: {SHARED: prefill}
  image: new
  gpus_per_node: 2
  slurm: {partition: h100, gpu_type: null, options: --mail-type=NONE}
slurm:
  partition: h200
  account: me
  qos: high
  constraint: ib
  gpu_type: h200
  gpu_request: gpus-per-node
  cpus_per_gpu: 14
  exclusive: true
  time: 4h
  drain: 3min
  options: --segment=2 --mail-type=END
kubernetes:
  image: registry/sglang:1
  namespace: llm
  gpu_resource: amd.com/gpu
  model_claim: models
  shared_memory: 32Gi
"""


def read(path: Path, text: str) -> ClusterFile:
    file = path / "cluster.yaml"
    file.write_text(text)
    return read_cluster_file(file)


SLURM = SlurmSettings(
    partition="h200",
    account="me",
    qos="high",
    constraint="ib",
    gpu_type="h200",
    gpu_request="gpus-per-node",
    cpus_per_gpu=14,
    exclusive=True,
    time_s=4 * 3600.0,
    drain_s=180.0,
    options=("--segment=2", "--mail-type=END"),
)


def test_every_key_is_read(tmp_path: Path) -> None:
    assert read(tmp_path, EVERYTHING) == ClusterFile(
        gpus_per_node=4,
        interface="bond0",
        rdma=RdmaSettings(3, 106, mnnvl=True, cards=("mlx5_0", "mlx5_1")),
        hosts={"node3": HostSettings(2, ("mlx5_0",), "rack1")},
        place="spread",
        stage="/local/nvme",
        python="/shared/sglang/bin/python",
        preamble="module load cuda/12.8\nulimit -l unlimited\n",
        models={"r1": "/lustre/models/DeepSeek-R1"},
        env={"NCCL_IB_HCA": "mlx5_0", "SHARED": "everywhere"},
        images={"new": "registry/sglang:2"},
        container=Container("docker", "registry/sglang:1", devices=("/dev/infiniband",)),
        role_env={"prefill": {"SHARED": "prefill"}},
        role_image={"prefill": "new"},
        slurm=SLURM,
        role_slurm={
            "prefill": replace(
                SLURM, partition="h100", gpu_type=None, options=("--mail-type=NONE",)
            )
        },
        role_gpus={"prefill": 2},
        kubernetes=KubernetesSettings("registry/sglang:1", "llm", "amd.com/gpu", "models", "32Gi"),
    )


def test_what_is_left_out_has_its_default(tmp_path: Path) -> None:
    assert read(tmp_path, "schema: 1\n") == ClusterFile()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gpus_per_node: 8\n", "has no schema"),
        ("schema: 2\n", "line 1: schema 2 is newer"),
        ("schema: 1\nslurm: {partitoin: x}\n", "line 2: 'slurm.partitoin' is not a known key"),
        ("schema: 1\nslurm:\n  gpu_request: gpu\n", "line 3: slurm.gpu_request must be gres or"),
        ("schema: 1\ngpus_per_node: 0\n", "gpus_per_node must be a whole number of at least 1"),
        ("schema: 1\nslurm: {time: soon}\n", "slurm.time must be a duration"),
        ("schema: 1\ncontainer: {image: x}\n", "line 2: container has no runtime"),
        ("schema: 1\ncontainer: {image: x, runtime: lxc}\n", "must be one of docker, podman"),
        (
            "schema: 1\ncontainer: {image: x, runtime: pyxis, ulimits: [memlock=-1]}\n",
            "container.ulimits is for docker and podman; pyxis uses the host's",
        ),
        (
            "schema: 1\nplace: anywhere\n",
            "place must be auto, spread, pack, domain, not 'anywhere'",
        ),
        (
            "schema: 1\nprefill: {slurm: {time: 4h}}\n",
            "line 2: 'prefill.slurm.time' is not a known key",
        ),
        ("schema: 1\nslurm: {exclusive: perhaps}\n", "slurm.exclusive must be true or false"),
    ],
)
def test_what_it_does_not_understand_is_named_with_its_line(
    tmp_path: Path, text: str, words: str
) -> None:
    with pytest.raises(InvalidInput) as error:
        read(tmp_path, text)
    assert words in error.value.message


def test_the_project_s_file_comes_before_the_user_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.setenv("PDCTL_STATE_HOME", str(tmp_path))
    assert cluster_here(project) == ClusterFile()
    (tmp_path / "cluster.yaml").write_text("schema: 1\ngpus_per_node: 4\n")
    assert cluster_here(project).gpus_per_node == 4
    (project / "cluster.yaml").write_text("schema: 1\ngpus_per_node: 2\n")
    assert cluster_here(project).gpus_per_node == 2


def test_a_deployment_s_own_settings_win(tmp_path: Path) -> None:
    cluster = read(tmp_path, EVERYTHING)
    plain = replace(split(), model="r1")
    own = replace(plain.roles["decode"], env={"NCCL_IB_HCA": "mine"})
    there = on_cluster(replace(plain, roles={**plain.roles, "decode": own}), cluster)
    assert there.model == "/lustre/models/DeepSeek-R1"
    assert there.python == "/shared/sglang/bin/python"
    usual = network_env(cluster)
    assert there.roles["prefill"].env == {**usual, "NCCL_IB_HCA": "mlx5_0", "SHARED": "prefill"}
    assert there.roles["decode"].env == {**usual, "NCCL_IB_HCA": "mine", "SHARED": "everywhere"}
    assert on_cluster(replace(plain, python="/mine"), cluster).python == "/mine"


def test_images_are_chosen_by_role_and_a_deployment_s_own_container_wins(tmp_path: Path) -> None:
    cluster = read(tmp_path, EVERYTHING)
    there = on_cluster(split(), cluster)
    images = {
        role: container.image for role in there.roles if (container := container_of(there, role))
    }
    assert images == {"prefill": "registry/sglang:2", "decode": "registry/sglang:1"}
    own = Container("pyxis", "new")
    assert on_cluster(split(container=own), cluster).container == replace(
        own, image="registry/sglang:2"
    )
    assert on_cluster(split(container=own), cluster).roles["prefill"].image is None


def test_every_library_gets_the_same_network(tmp_path: Path) -> None:
    env = network_env(read(tmp_path, EVERYTHING))
    assert env["NCCL_SOCKET_IFNAME"] == env["GLOO_SOCKET_IFNAME"] == "bond0"
    gid = ("NCCL_IB_GID_INDEX", "NVSHMEM_IB_GID_INDEX", "UCX_IB_GID_INDEX", "MC_GID_INDEX")
    assert {env[name] for name in gid} == {"3"}
    assert env["NCCL_IB_TC"] == env["UCX_IB_TRAFFIC_CLASS"] == "106"
    assert env["NCCL_MNNVL_ENABLE"] == "1"
    assert network_env(ClusterFile()) == {}


def test_what_hosts_have_is_written_once_and_the_others_by_name(tmp_path: Path) -> None:
    gpus = {"node1": 8, "node2": 8, "node3": 4}
    cards = {"node1": ("mlx5_0", "mlx5_1"), "node2": ("mlx5_0", "mlx5_1"), "node3": ()}
    text = cluster_text(gpus, cards)
    assert "node1" not in text
    found = read(tmp_path, text)
    assert {host: found.gpus_of(host) for host in gpus} == gpus
    assert {host: found.cards_of(host) for host in cards} == cards
    alike = cluster_text({"a": 8, "b": 8}, {"a": (), "b": ()})
    assert read(tmp_path, alike) == ClusterFile(gpus_per_node=8)


def test_a_stage_that_depends_on_the_working_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"line 2: stage must be an absolute path, not 'nvme'"):
        read(tmp_path, "schema: 1\nstage: nvme\n")


def test_a_short_list_of_hosts_stands_for_each_of_them(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text("schema: 1\nhosts:\n  node[01-02,07]: {gpus: 4}\n  other: {gpus: 2}\n")
    found = read_cluster_file(file)
    assert [found.gpus_of(f"node{n}") for n in ("01", "02", "03", "07")] == [4, 4, 8, 4]
    file.write_text("schema: 1\nhosts: {'node[5-1]': {gpus: 4}}\n")
    with pytest.raises(InvalidInput, match=r"line 2: hosts.*has the range 5-1"):
        read_cluster_file(file)
