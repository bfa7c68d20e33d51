import subprocess
from dataclasses import replace

import pytest

from pdctl.deployment.cluster_file import ClusterFile, SlurmSettings
from pdctl.deployment.elsewhere import expand_on_nodes
from pdctl.deployment.exports.slurm import address_of, sbatch_options, slurm
from pdctl.deployment.records import Container, Deployment
from pdctl.errors import InvalidInput
from pdctl.perf_model.records import Parallelism, Role
from tests.deployment.examples import colocated, split

PLAIN = ClusterFile()


def script(deployment: Deployment, cluster: ClusterFile = PLAIN) -> str:
    planned = expand_on_nodes(deployment, cluster, address_of=address_of, python="/pdctl/python")
    return slurm(planned, cluster)


def words_of(text: str, *addresses: str) -> dict[str, list[str]]:
    """The words that bash makes of each engine's line, by name, and of the router's."""
    lines = [x for x in text.splitlines() if x.startswith(("engine ", "env "))]
    shown = "; ".join(line.partition(" >> ")[0].replace("env ", "engine router 0 ", 1)
                      if line.startswith("env ") else line for line in lines)  # fmt: skip
    program = f"address=({' '.join(addresses)}); engine() {{ printf '%s\\0' \"$@\"; echo; }}; "
    done = subprocess.run(["bash", "-c", program + shown], capture_output=True, check=True)
    rows = [row.decode().split("\0")[:-1] for row in done.stdout.split(b"\n") if row]
    return {row[0]: row[1:] for row in rows}


def test_bash_understands_it_and_looks_addresses_up() -> None:
    odd = split(1, 1, parallelism=Parallelism(tp=8))
    roles = {**odd.roles, "decode": replace(odd.roles["decode"], args=("--x", 'a "$b" c'))}
    text = script(replace(odd, roles=roles))
    subprocess.run(["bash", "-n"], input=text.encode(), check=True)
    words = words_of(text, "10.0.0.1", "10.0.0.2")
    prefill, decode, router = (words[name] for name in ("prefill-0", "decode-0", "router"))
    assert (prefill[0], decode[0]) == ("0", "1")
    assert "CUDA_VISIBLE_DEVICES=0,1,2,3,4,5,6,7" in decode
    assert "SGLANG_HOST_IP=10.0.0.2" in decode
    assert decode[decode.index("--host") + 1] == "10.0.0.2"
    assert decode[decode.index("--dist-init-addr") + 1].startswith("10.0.0.2:")
    assert decode[decode.index("--x") + 1] == 'a "$b" c'
    assert router[router.index("--prefill") + 1] == "http://10.0.0.1:20000"
    assert router[router.index("--decode") + 1] == "http://10.0.0.2:20010"


def test_ranks_of_a_large_engine_meet_at_the_first_one_and_are_not_routed_to() -> None:
    words = words_of(script(split(1, 1, parallelism=Parallelism(tp=16))), "a", "b", "c", "d")
    assert [words[name][0] for name in ("decode-0", "decode-0.1")] == ["2", "3"]
    meets = [words[n][words[n].index("--dist-init-addr") + 1] for n in ("decode-0", "decode-0.1")]
    assert meets[0] == meets[1]
    assert meets[0].startswith("c:")
    assert words["router"].count("--decode") == 1


def test_each_dialect_of_slurm_is_spoken() -> None:
    settings = SlurmSettings(partition="p", account="a", gpu_type="h100", cpus_per_gpu=8)
    large = split(2, 2, parallelism=Parallelism(tp=8))
    assert sbatch_options(large, ClusterFile(slurm=settings), 4) == (
        "--job-name=llama",
        "--nodes=4",
        "--ntasks-per-node=1",
        "--gres=gpu:h100:8",
        "--cpus-per-task=64",
        "--partition=p",
        "--account=a",
        "--no-requeue",
    )
    other = SlurmSettings(
        gpu_request="gpus-per-node",
        exclusive=True,
        time_s=5400,
        drain_s=60,
        options=("--segment=2",),
    )
    assert sbatch_options(split(1, 2), ClusterFile(slurm=other), 1)[3:] == (
        "--gpus-per-node=3",
        "--exclusive",
        "--mem=0",
        "--time=90:00",
        "--signal=B:TERM@60",
        "--no-requeue",
        "--segment=2",
    )


def test_the_preamble_and_the_interface_of_the_cluster_are_in_it() -> None:
    text = script(split(1, 1), ClusterFile(interface="bond0", preamble="module load cuda\n"))
    assert "\nmodule load cuda\n" in text
    assert "\nINTERFACE=bond0\n" in text


def test_each_step_has_the_options_of_its_container() -> None:
    images: dict[Role, str] = {"prefill": "/img/prefill.sqsh"}
    cluster = ClusterFile(container=Container("pyxis", "/img/a b.sqsh"), role_image=images)
    text = script(split(1, 1), cluster)
    subprocess.run(["bash", "-n"], input=text.encode(), check=True)
    words = words_of(text, "10.0.0.1")
    assert words["prefill-0"][1] == "--container-image=/img/prefill.sqsh"
    assert words["decode-0"][1] == "--container-image=/img/a b.sqsh"
    inside = words["decode-0"][words["decode-0"].index("--") + 1 :]
    assert inside[inside.index("-m") - 1] == "python3"
    assert not any(word.startswith("--container") for word in inside)


HET = ClusterFile(
    role_slurm={"prefill": SlurmSettings(partition="fast", gpu_type="b200")},
    role_gpus={"prefill": 4},
)


def test_prefill_and_decode_on_nodes_of_two_kinds_are_a_heterogeneous_job() -> None:
    text = script(split(3, 3, parallelism=Parallelism(tp=2)), HET)
    subprocess.run(["bash", "-n"], input=text.encode(), check=True)
    options = [line.split()[1] for line in text.splitlines() if line.startswith("#SBATCH")]
    parts = options[: options.index("hetjob")], options[options.index("hetjob") + 1 :]
    assert {"--nodes=2", "--gres=gpu:b200:4", "--partition=fast"} <= {*parts[0]}
    assert {"--nodes=1", "--gres=gpu:6"} <= {*parts[1]}
    assert not any(option.startswith("--partition") for option in parts[1])
    words = words_of(text, "a", "b", "c")
    nodes = {name: own[0] for name, own in words.items() if name != "router"}
    assert sorted(nodes[f"prefill-{i}"] for i in range(3)) == ["0", "0", "1"]
    assert {nodes[f"decode-{i}"] for i in range(3)} == {"2"}
    assert text.count('"${group[$node]}"') == 1, "the step names the part of its node"


def test_what_two_kinds_of_nodes_cannot_do_is_refused() -> None:
    with pytest.raises(InvalidInput, match="share no NVLink"):
        script(split(1, 1, place="domain"), HET)
    assert "hetjob" not in script(colocated(2), HET)
