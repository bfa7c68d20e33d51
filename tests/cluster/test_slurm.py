"""Whole deployments of simulated engines on a real Slurm, by the command line."""

import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster.load import scales_without_a_failed_request
from tests.cluster.pdctl_there import CLUSTER, LLAMA, R1, OnSlurm
from tests.cluster.slurm import Slurm, until


def test_up_from_outside_serves_scales_and_down_leaves_nothing(there: OnSlurm) -> None:
    ran = there.run("up", "-f", there.write("chat"), "--on", "slurm", "-d")
    assert ran.returncode == 0, ran.stderr
    assert "submitted Slurm job" in ran.stderr
    assert there.state("chat")["endpoint"] == "http://10.77.0.11:30000"
    there.serves_and_scales("chat")

    there.done("down", "chat")
    assert there.cluster.jobs() == []
    there.leaves_nothing()


def test_no_request_fails_while_engines_come_and_go(there: OnSlurm) -> None:
    there.done("up", "-f", there.write("chat"), "--on", "slurm", "-d")
    scales_without_a_failed_request(there, "chat")


def test_a_killed_engine_comes_back_on_its_node(there: OnSlurm) -> None:
    there.done("up", "-f", there.write("chat"), "--on", "slurm", "-d")
    before = {p["name"]: p for p in there.state("chat")["processes"]}
    port = before["decode-3"]["url"].rpartition(":")[2]
    for process in there.processes(f"--port {port}"):
        if process.name() != "srun":
            process.kill()
    until(lambda: there.phases("chat").get("decode-3") != "serving")
    assert there.serves("chat")
    there.until_serving("chat")
    after = {p["name"]: p for p in there.state("chat")["processes"]}
    assert (after["decode-3"]["restarts"], after["decode-3"]["exit_code"]) == (1, None)
    assert after["decode-3"]["node"] == before["decode-3"]["node"]


def test_a_step_whose_srun_was_killed_is_replaced(there: OnSlurm) -> None:
    there.done("up", "-f", there.write("chat"), "--on", "slurm", "-d")
    there.kill("--job-name=decode-2")
    until(lambda: there.phases("chat").get("decode-2") != "serving")
    there.until_serving("chat")
    port = there.state("chat")["processes"][4]["url"].rpartition(":")[2]
    engines = [p for p in there.processes(f"--port {port}") if p.name() != "srun"]
    assert len({p.ppid() for p in engines}) == 1, "the step that lost its srun is gone"


def test_scancel_leaves_nothing(there: OnSlurm) -> None:
    there.done("up", "-f", there.write("chat"), "--on", "slurm", "-d")
    there.cluster.run("scancel", *there.cluster.jobs())
    there.leaves_nothing()
    assert there.run("down", "chat").returncode == 7
    assert len(there.done("ls").splitlines()) == 1  # the heading alone
    there.done("up", "-f", there.write("chat"), "--on", "slurm", "-d")


def test_a_killed_batch_script_leaves_nothing(there: OnSlurm) -> None:
    there.done("up", "-f", there.write("chat"), "--on", "slurm", "-d")
    script = [p for p in there.processes("pdctl up -f") if "submitted.yaml" in p.cmdline()[5]]
    assert len(script) == 1
    script[0].kill()
    there.leaves_nothing()


def test_the_warning_before_the_time_limit_lets_requests_finish(there: OnSlurm) -> None:
    file = there.write("chat", cluster=CLUSTER + "slurm: {time: 10min, drain: 2min}\n")
    there.done("up", "-f", file, "--on", "slurm", "-d")
    limit = there.cluster.run("squeue", "-h", "-o", "%l").stdout.strip()
    assert limit == "10:00"
    client = there.client("chat", tokens=4000)
    assert client.stdout is not None
    assert client.stdout.readline() == "data:\n"
    there.cluster.run("scancel", "--batch", "--signal=TERM", *there.cluster.jobs())
    assert client.communicate(timeout=60)[0] == "[DONE]\n"
    there.leaves_nothing()


def test_a_plan_is_for_the_free_gpus_and_status_shows_when_the_job_ends(there: OnSlurm) -> None:
    file = there.write("chat", cluster=CLUSTER + "slurm: {time: 10min, gpu_type: h200}\n")
    asked = ("plan", "qwen3-8b", "--isl", "4000", "--osl", "200", "--rate", "2", "--on", "slurm")
    planned = json.loads(there.done(*asked, "--json"))["data"]
    gpus = planned["question"]["gpus"]
    assert (gpus["name"], gpus["num_nodes"], gpus["gpus_per_node"]) == ("H200", 3, 8)
    assert planned["next"][0].endswith("--on slurm")
    there.cluster.run("salloc", "--gres=gpu:3", "-w", "node2", "--no-shell")
    ran = there.run(*asked, "--json")
    gpus = json.loads(ran.stdout)["data"]["question"]["gpus"]
    assert (gpus["num_nodes"], gpus["gpus_per_node"]) == (2, 8)
    assert "also free: node2 has 5 h200." in ran.stderr
    there.cluster.run("scancel", "--user=root")
    until(lambda: not there.cluster.jobs())

    (there.cwd / "cluster.yaml").write_text(CLUSTER + "slurm: {time: 10min}\n")  # of no type here
    there.done("up", "-f", file, "--on", "slurm", "-d")
    job = json.loads(there.done("status", "--once", "--json"))["data"]["job"]
    assert [job["number"]] == there.cluster.jobs()
    assert time.time() < job["ends_at_s"] < time.time() + 600


def test_a_killed_supervisor_in_the_foreground_takes_everything_with_it(there: OnSlurm) -> None:
    inside = there.inside(there.allocate())
    argv = ("up", "-f", there.write("chat"), "--on", "slurm")
    there.cluster.login.spawn(
        *_pdctl(), *argv, log=there.cwd / "up.log", env=inside.environment, cwd=there.cwd
    )
    there.until_serving("chat")
    there.kill("pdctl.engines.daemon")
    there.leaves_nothing()


def test_a_detached_supervisor_is_replaced_here_and_from_another_host(there: OnSlurm) -> None:
    inside = there.inside(there.allocate())
    inside.done("up", "-f", there.write("chat"), "--on", "slurm", "-d")
    supervisor = there.state("chat")["supervisor_pid"]
    tasks = there.tasks("chat")
    for process in there.processes("-m pdctl.engines.daemon"):
        if "guard.py" not in " ".join(process.cmdline()):
            process.kill()
    until(lambda: there.state("chat")["supervisor_pid"] != supervisor)
    there.until_serving("chat")
    there.kill("pdctl.engines.daemon")
    assert there.serves("chat")

    inside.done("up", "--resume", "--name", "chat", host=there.cluster.nodes[1])
    there.until_serving("chat")
    assert there.state("chat")["host"] == "node2"
    assert there.tasks("chat") == tasks, "no engine was started anew"
    there.done("down", "chat")
    there.cluster.run("scancel", *there.cluster.jobs())
    there.leaves_nothing()


def test_an_engine_of_two_nodes_ends_and_comes_back_with_any_of_its_ranks(
    there: OnSlurm,
) -> None:
    there.write("r1")
    file = there.cwd / "r1.yaml"
    file.write_text(R1)
    there.done("up", "-f", str(file), "--on", "slurm", "-d")
    assert there.serves("r1")
    ranks = [p for p in there.processes("--nnodes 2") if p.name() != "srun"]
    assert sorted(p.cmdline()[-1] for p in ranks) == ["0", "1"]
    (follower,) = [p for p in ranks if p.cmdline()[-1] == "1"]
    follower.kill()
    until(lambda: there.phases("r1").get("decode-0") != "serving")
    until(lambda: there.state("r1").get("phase") == "serving")
    assert there.serves("r1")
    again = [p for p in there.processes("--nnodes 2") if p.name() != "srun"]
    assert len(again) == 2
    assert not set(again) & set(ranks), "both ranks are new"
    there.done("down", "r1")
    there.leaves_nothing()


def test_a_wish_that_does_not_fit_is_refused_with_what_is_free(there: OnSlurm) -> None:
    ran = there.run("up", "-f", there.write("big", prefill=8, decode=12), "--on", "slurm")
    assert ran.returncode == 2
    assert "Slurm refuses the job" in ran.stderr
    assert "node1 8 of 8 GPUs (gpu, idle)" in ran.stderr
    assert there.cluster.jobs() == []


def test_engines_go_where_a_dry_run_shows_them_by_each_policy(there: OnSlurm) -> None:
    rack = "hosts:\n  node2: {domain: rack}\n  node3: {domain: rack, gpus: 4}\n"
    inside = there.inside(there.allocate())
    file = there.write("chat", prefill=1, decode=4, cluster=CLUSTER + rack)
    up = ("up", "-f", file, "--on", "slurm", "--place")
    ran = inside.run(*up, "domain", "--total", "9")
    assert "No NVLink domain has room for 2P7D, 18 GPUs: " in ran.stderr
    assert "node1 has 8 of 8 free, rack has 12 of 12 free" in ran.stderr
    nodes = {}
    for policy in ("pack", "spread", "domain"):
        dry = json.loads(inside.done(*up, policy, "--dry-run", "--json"))["data"]
        shown = {one["name"]: one["places"][0]["node"] for one in dry["processes"]}
        nodes[policy] = {node for name, node in shown.items() if name != "router"}
    assert nodes["spread"] == {"node1", "node2", "node3"}
    assert len(nodes["pack"]) == 2
    assert nodes["domain"] == {"node2", "node3"}

    assert f"note: {shown['decode-0']} runs " in inside.run(*up, "domain", "--dry-run").stderr
    inside.done(*up, "domain", "-d")
    assert {p["name"]: p["node"] for p in inside.state("chat")["processes"]} == shown
    inside.done("scale", "chat", "--prefill", "1", "--decode", "5")
    assert {p["node"] for p in inside.state("chat")["processes"][1:]} == {"node2", "node3"}
    assert inside.run("scale", "chat", "--prefill", "1", "--decode", "6").returncode == 4
    inside.done("down", "chat")


def test_nvlink_domains_are_the_leaf_switches_or_features_that_slurm_knows(
    there: OnSlurm,
) -> None:
    inside = there.inside(there.allocate())

    def in_one_domain(more: str) -> set[str]:
        file = there.write("chat", prefill=1, decode=4, cluster=CLUSTER + more)
        up = ("up", "-f", file, "--on", "slurm", "--place", "domain", "--dry-run", "--json")
        shown = json.loads(inside.done(*up))["data"]["processes"]
        return {one["places"][0]["node"] for one in shown if one["name"] != "router"}

    assert in_one_domain("slurm: {domain: switch}\n") == {"node1", "node2"}
    ran = inside.run("doctor", "--on", "slurm", "--quick", "--json")
    checks = json.loads(ran.stdout)["data"]["checks"]
    assert [c["text"] for c in checks if c["id"] == "nvlink_domain"] == [
        "node1 is in NVLink domain s0, by the cluster.",
        "node2 is in NVLink domain s0, by the cluster.",
        "node3 is in NVLink domain s1, by the cluster.",
    ]
    assert in_one_domain("slurm: {domain: nvl-*}\n") == {"node2", "node3"}
    both = "hosts: {'node[1,3]': {domain: rack}}\nslurm: {domain: switch}\n"
    assert in_one_domain(both) == {"node1", "node3"}, "cluster.yaml wins"


@pytest.mark.parametrize(
    ("domain", "option"), [("switch", "--switches=1"), ("block", "--segment=2")]
)
def test_a_job_for_one_nvlink_domain_is_accepted(domain: str, option: str, there: OnSlurm) -> None:
    if option.partition("=")[0] not in there.cluster.run("sbatch", "--help").stdout:
        pytest.skip(f"this Slurm knows no {option}")
    rack = f"rdma: {{mnnvl: true}}\nslurm: {{domain: {domain}}}\n"
    there.write("r1", cluster=CLUSTER + rack)
    file = there.cwd / "r1.yaml"
    file.write_text(R1.replace("tp: 8", "tp: 4").replace("tp: 16", "tp: 8") + "place: domain\n")
    script = there.cwd / "job.sbatch"
    script.write_text(there.done("render", "slurm", "-f", str(file)))
    assert f"#SBATCH {option}\n" in script.read_text()
    tried = there.cluster.run("sbatch", "--test-only", str(script))
    assert "on nodes node[1-2]" in tried.stderr


def test_an_interface_that_no_host_reaches_is_refused_by_the_host(there: OnSlurm) -> None:
    inside = there.inside(there.allocate())
    for interface, why in (("lo", "has no address"), ("ib7", "does not exist")):
        file = there.write("chat", cluster=f"schema: 1\ninterface: {interface}\n")
        ran = inside.run("up", "-f", file, "--on", "slurm")
        assert ran.returncode == 4
        assert f"node1: interface {interface} {why}" in ran.stderr
        assert "eth0 (10.77.0.11)" in ran.stderr
        assert inside.phases("chat") == {}


def test_a_node_without_the_model_is_named_before_anything_starts(there: OnSlurm) -> None:
    model = there.cwd.parent / "models" / "small"
    model.mkdir(parents=True)
    (model / "config.json").write_text(json.dumps(LLAMA))
    file = Path(there.write("chat"))
    file.write_text(file.read_text().replace("qwen3-8b", str(model)))
    inside, node = there.inside(there.allocate()), there.cluster.nodes[2]
    node.run("mount", "-t", "tmpfs", "tmpfs", str(model.parent))
    try:
        ran = inside.run("up", "-f", str(file), "--on", "slurm")
    finally:
        node.run("umount", str(model.parent))
    assert ran.returncode == 4
    assert f"node3 does not have {model}" in ran.stderr
    assert inside.phases("chat") == {}


def test_hosts_that_differ_are_named_before_anything_starts(there: OnSlurm) -> None:
    model = there.cwd.parent / "models" / "small"
    model.mkdir(parents=True)
    (model / "config.json").write_text(json.dumps(LLAMA))
    (model / "model.safetensors").write_bytes(b"12345678")
    file = Path(there.write("chat"))
    file.write_text(file.read_text().replace("qwen3-8b", str(model)))
    cut = there.cwd.parent / "cut"
    cut.write_bytes(b"1234")
    late = there.cwd.parent / "late"
    late.write_text(f"#!{sys.executable} -SI\nimport time\nprint(time.time() - 30)\n")
    late.chmod(0o755)
    inside, (node1, node2, node3) = there.inside(there.allocate()), there.cluster.nodes
    mounts = (
        (node2, cut, model / "model.safetensors"),
        (node3, late, Path(shutil.which("date") or "")),
    )
    found = {}
    for node, own, place in mounts:
        node.run("mount", "--bind", str(own), str(place))
        try:
            found[node.name] = inside.run("up", "-f", str(file), "--on", "slurm")
        finally:
            node.run("umount", str(place))
    node3.run("ip", "route", "add", "unreachable", node1.address)
    try:
        found["route"] = inside.run("up", "-f", str(file), "--on", "slurm")
    finally:
        node3.run("ip", "route", "del", "unreachable", node1.address)
    serve = ("-m", "http.server", "30000")
    log = there.cwd / "server.log"
    node1.spawn(sys.executable, "-u", *serve, log=log, env=there.environment)
    until(lambda: "Serving" in log.read_text())
    found["port"] = inside.run("up", "-f", str(file), "--on", "slurm")
    there.kill("http.server")
    assert {ran.returncode for ran in found.values()} == {4}
    assert "port 30000 is already in use on node1" in found["port"].stderr
    assert "model.safetensors in" in found["node2"].stderr
    assert "has 4 B on node2 and 8 B on node1" in found["node2"].stderr
    assert "The clock of node3 is 30.0 s behind that of node" in found["node3"].stderr
    assert "node1 does not reach node3 at 10.77.0.13:" in found["route"].stderr
    assert "interface: NAME in cluster.yaml" in found["route"].stderr
    assert inside.phases("chat") == {}
    there.cluster.run("scancel", *there.cluster.jobs())
    there.leaves_nothing()


def test_a_model_is_copied_to_the_disk_of_each_node_and_a_full_disk_is_named(
    there: OnSlurm,
) -> None:
    model, nvme = there.cwd.parent / "models" / "small", there.cwd.parent / "nvme"
    model.mkdir(parents=True)
    nvme.mkdir()
    (model / "config.json").write_text(json.dumps(LLAMA))
    (model / "model.safetensors").write_bytes(b"w" * 2_000_000)
    wanted = there.write("chat", prefill=1, decode=1, cluster=f"{CLUSTER}stage: {nvme}\n")
    file = Path(wanted)
    file.write_text(file.read_text().replace("qwen3-8b", str(model)))
    inside, nodes = there.inside(there.allocate()), there.cluster.nodes
    try:
        for node, size in zip(nodes, ("8m", "1m", "8m"), strict=True):
            node.run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(nvme))
        ran = inside.run("up", "-f", str(file), "--on", "slurm")
        assert ran.returncode == 4
        assert f"node2: {nvme} has 1 MiB free, and the copy of {model} needs" in ran.stderr
        assert inside.phases("chat") == {}

        nodes[1].run("mount", "-o", "remount,size=8m", str(nvme))
        inside.done("up", "-f", str(file), "--on", "slurm", "-d")
        assert [bool(node.run("ls", str(nvme)).stdout) for node in nodes] == [True, True, False]
        scaled = inside.run("scale", "chat", "--prefill", "1", "--decode", "4")
        assert "load" not in scaled.stderr, "every node has a copy now"
        engines = [p for p in there.processes("pdctl.engines.sim") if p.name() != "srun"]
        copies = {p.cmdline()[4] for p in engines}
        names = {p.cmdline()[p.cmdline().index("--served-model-name") + 1] for p in engines}
        assert names == {str(model)}
        assert {Path(copy).parent for copy in copies} == {nvme}
        held = [node.run("ls", *copies).stdout.split() for node in nodes]
        assert held == [["config.json", "model.safetensors"]] * 3
        assert there.serves("chat")
    finally:
        there.run("down", "chat", "--now")
        there.cluster.run("scancel", *there.cluster.jobs())
        there.leaves_nothing()
        for node in nodes:
            node.run("umount", str(nvme))


def test_doctor_measures_tcp_between_the_nodes(there: OnSlurm) -> None:
    there.write("chat")
    inside = there.inside(there.allocate())
    ran = inside.run("doctor", "--on", "slurm", "--quick", "--kv-bandwidth", "--json")
    checks = json.loads(ran.stdout)["data"]["checks"]
    rates = [check for check in checks if check["id"] == "kv_bandwidth"]
    assert [(check["node"], check["outcome"] != "fail") for check in rates] == [
        ("node1", True),
        ("node2", True),
        ("node3", True),
    ]
    assert "to node1 over TCP (RDMA is not measured)" in rates[2]["text"]
    assert {check["outcome"] for check in checks if check["id"] == "reachable"} == {"pass"}


def test_a_waiting_job_can_be_cancelled(there: OnSlurm, cluster: Slurm) -> None:
    cluster.run("scontrol", "update", "partitionname=gpu", "state=down")
    try:
        up = cluster.login.spawn(
            *(*_pdctl(), "up", "-f", there.write("chat"), "--on", "slurm"),
            log=there.cwd / "up.log",
            env=there.environment,
            cwd=there.cwd,
        )
        until(lambda: "is pending" in (there.cwd / "up.log").read_text())
        again = there.run("up", "-f", there.write("chat"), "--on", "slurm")
        assert again.returncode == 7
        assert "already submitted" in again.stderr
        assert "Cancelled Slurm job" in there.done("down", "chat")
        assert up.wait(30) == 5
    finally:
        cluster.run("scontrol", "update", "partitionname=gpu", "state=up")


def test_a_rendered_script_is_accepted_runs_and_ends_whole(there: OnSlurm) -> None:
    file = there.write("chat")
    script = there.cwd / "job.sbatch"
    script.write_text(there.done("render", "slurm", "-f", file))
    tried = there.cluster.run("sbatch", "--test-only", str(script))
    assert "to start at" in tried.stderr
    output = there.cwd / "out"
    argv = ("sbatch", f"--output={output}", f"--chdir={there.cwd}", str(script))
    there.cluster.login.run(*argv, env=there.environment, cwd=there.cwd)
    until(lambda: output.exists() and "ready: http://10.77.0.11:30000" in output.read_text())
    steps = there.cluster.run("squeue", "-s", "-h", "-o", "%j").stdout.split()
    assert len([step for step in steps if step.startswith(("prefill", "decode"))]) == 10
    there.kill("--port 20000")
    until(lambda: "a process ended" in output.read_text())
    there.leaves_nothing()


def test_a_script_for_two_partitions_is_accepted_and_serves(there: OnSlurm) -> None:
    with _partition(there.cluster, "fast", "node3"):
        two = CLUSTER + "prefill: {slurm: {partition: fast}, gpus_per_node: 4}\n"
        script = there.cwd / "job.sbatch"
        script.write_text(there.done("render", "slurm", "-f", there.write("chat", cluster=two)))
        tried = there.cluster.run("sbatch", "--test-only", str(script))
        assert "to start at" in tried.stderr
        output = there.cwd / "out"
        argv = ("sbatch", f"--output={output}", f"--chdir={there.cwd}", str(script))
        there.cluster.login.run(*argv, env=there.environment, cwd=there.cwd)
        router = f"http://{there.cluster.nodes[2].address}:30000"
        until(lambda: output.exists() and f"ready: {router}" in output.read_text())
        steps = there.cluster.run("squeue", "-s", "-h", "-o", "%j %N").stdout.splitlines()
        engines = [step.split() for step in steps if step.startswith(("prefill", "decode"))]
        assert {node for name, node in engines if name.startswith("prefill")} == {"node3"}
        assert {node for name, node in engines if name.startswith("decode")} == {"node1", "node2"}
        there.cluster.run("scancel", *there.cluster.jobs())
        there.leaves_nothing()


def test_prefill_and_decode_of_two_partitions_serve_scale_and_end(there: OnSlurm) -> None:
    with _partition(there.cluster, "fast", "node3"):
        two = CLUSTER + "prefill: {slurm: {partition: fast}, gpus_per_node: 4}\n"
        file = there.write("chat", prefill=1, decode=5, cluster=two)
        there.done("up", "-f", file, "--on", "slurm", "-d")
        assert there.serves("chat")

        def nodes_of(role: str) -> set[str]:
            return {p["node"] for p in there.state("chat")["processes"] if p["role"] == role}

        assert (nodes_of("router"), nodes_of("prefill")) == ({"node3"}, {"node3"})
        assert nodes_of("decode") == {"node1", "node2"}
        assert "2P5D" in there.done("scale", "--prefill", "2", "--decode", "5")
        ran = there.run("scale", "--prefill", "1", "--decode", "6")
        assert "no role switch: prefill and decode have nodes of their own" in ran.stderr
        there.until_serving("chat")
        assert (nodes_of("prefill"), nodes_of("decode")) == ({"node3"}, {"node1", "node2"})
        there.done("down", "chat")
        there.leaves_nothing()


@contextmanager
def _partition(cluster: Slurm, name: str, nodes: str) -> Iterator[None]:
    """One more partition of these nodes, which are in the usual one too."""
    cluster.run("scontrol", "create", f"partitionname={name}", f"nodes={nodes}", "state=up")
    try:
        yield
    finally:
        until(lambda: not cluster.jobs())
        cluster.run("scontrol", "delete", f"partitionname={name}")


def test_a_script_for_engines_of_two_nodes_is_accepted(there: OnSlurm) -> None:
    there.write("r1")
    file = there.cwd / "r1.yaml"
    file.write_text(
        "schema: 1\nname: r1\nmodel: deepseek-ai/DeepSeek-R1\ncolocated: {engines: 1, tp: 16}\n"
    )
    script = there.cwd / "job.sbatch"
    script.write_text(there.done("render", "slurm", "-f", str(file)))
    tried = there.cluster.run("sbatch", "--test-only", str(script))
    assert "to start at" in tried.stderr
    assert "on nodes node[1-2]" in tried.stderr


def _pdctl() -> tuple[str, ...]:
    return (sys.executable, "-m", "pdctl")
