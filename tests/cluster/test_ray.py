"""Whole deployments of simulated engines on a real Ray cluster, by the command line."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.cluster import ray_cluster
from tests.cluster.load import scales_without_a_failed_request
from tests.cluster.pdctl_there import CLUSTER, LLAMA, R1, PdctlThere, deployed
from tests.cluster.ray_cluster import RayCluster
from tests.cluster.slurm import until

OnRay = PdctlThere[RayCluster]


def engine(there: OnRay, name: str) -> psutil.Process:
    """The first process of an engine."""
    port = next(p for p in there.state("chat")["processes"] if p["name"] == name)["url"][-5:]
    return min(there.processes(f"--port {port}"), key=lambda process: process.pid)


def test_up_serves_scales_and_down_leaves_nothing(on_ray: OnRay) -> None:
    there = on_ray
    there.done("up", "-f", there.write("chat"), "--on", "ray", "-d")
    assert there.state("chat")["endpoint"] == "http://10.77.0.10:30000"
    there.serves_and_scales("chat")

    there.done("down", "chat")
    there.leaves_nothing()
    assert actors(there) == [], "Ray keeps no actor of the deployment"


def actors(there: OnRay) -> list[str]:
    """The detached actors of pdctl that Ray knows."""
    code = (
        "import json, ray; ray.init(log_to_driver=False);"
        "print(json.dumps([a['name'] for a in ray.util.list_named_actors(all_namespaces=True)]))"
    )
    done = there.cluster.login.run(sys.executable, "-c", code, env=there.environment)
    found = json.loads(done.stdout)
    assert isinstance(found, list)
    return found


def test_no_request_fails_while_engines_come_and_go(on_ray: OnRay) -> None:
    on_ray.done("up", "-f", on_ray.write("chat"), "--on", "ray", "-d")
    scales_without_a_failed_request(on_ray, "chat")


def test_a_killed_engine_comes_back_on_its_host_with_its_exit_code(on_ray: OnRay) -> None:
    there = on_ray
    there.done("up", "-f", there.write("chat"), "--on", "ray", "-d")
    before = {p["name"]: p for p in there.state("chat")["processes"]}
    engine(there, "decode-3").kill()
    until(lambda: there.phases("chat").get("decode-3") != "serving")
    assert there.serves("chat")
    there.until_serving("chat")
    after = {p["name"]: p for p in there.state("chat")["processes"]}
    assert after["decode-3"]["restarts"] == 1
    assert after["decode-3"]["node"] == before["decode-3"]["node"]
    assert "crash          decode-3     exit code -9" in there.done("logs", "--events")


def test_engines_outlive_their_agent_and_their_supervisor(on_ray: OnRay) -> None:
    there = on_ray
    there.done("up", "-f", there.write("chat"), "--on", "ray", "-d")
    tasks = there.tasks("chat")
    agent = psutil.Process(engine(there, "decode-2").ppid())
    assert "RemoteAgent" in " ".join(agent.cmdline())
    agent.kill()
    supervisor = there.state("chat")["supervisor_pid"]
    for process in there.processes("-m pdctl.engines.daemon"):
        if "guard.py" not in " ".join(process.cmdline()):
            process.kill()
    until(lambda: there.state("chat")["supervisor_pid"] != supervisor)
    there.until_serving("chat")
    assert there.tasks("chat") == tasks, "no engine was started anew"

    there.kill("pdctl.engines.daemon")
    assert there.serves("chat")
    there.done("up", "--resume", "--name", "chat", host=there.cluster.nodes[1])
    there.until_serving("chat")
    assert there.state("chat")["host"] == "node2"
    assert there.tasks("chat") == tasks


def test_a_supervisor_in_the_foreground_takes_everything_with_it(on_ray: OnRay) -> None:
    there = on_ray
    argv = (sys.executable, "-m", "pdctl", "up", "-f", there.write("chat"), "--on", "ray")
    log = there.cwd / "up.log"
    there.cluster.login.spawn(*argv, log=log, env=there.environment, cwd=there.cwd)
    there.until_serving("chat")
    there.kill("pdctl.engines.daemon")
    there.leaves_nothing()


def test_an_engine_of_two_hosts_ends_and_comes_back_with_any_of_its_ranks(on_ray: OnRay) -> None:
    there = on_ray
    there.write("r1")
    file = there.cwd / "r1.yaml"
    file.write_text(R1)
    there.done("up", "-f", str(file), "--on", "ray", "-d")
    ranks = there.processes("--nnodes 2")
    assert sorted(p.cmdline()[-1] for p in ranks) == ["0", "1"]
    next(p for p in ranks if p.cmdline()[-1] == "1").kill()
    until(lambda: there.phases("r1").get("decode-0") != "serving")
    until(lambda: there.state("r1").get("phase") == "serving")
    again = there.processes("--nnodes 2")
    assert len(again) == 2
    assert not set(again) & set(ranks), "both ranks are new"


def ask_relay(there: OnRay, run_id: str, do: str, *args: str) -> object:
    """The answer of a relay that lives for one question."""
    module = (sys.executable, "-m", "pdctl.engines.ray_relay")
    argv = (*module, there.environment["RAY_ADDRESS"], run_id, "detached")
    done = subprocess.run(
        there.cluster.login.command(argv, there.cwd),
        env={**os.environ, **there.environment},
        input=json.dumps({"id": 1, "node": "", "do": do, "args": args}) + "\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return json.loads(done.stdout)["value"]


def test_gpus_in_use_are_taken_from_ray_and_given_back(on_ray: OnRay) -> None:
    assert ask_relay(on_ray, "first", "reserve", "node2") is True
    assert ask_relay(on_ray, "second", "reserve", "node2") is False
    ask_relay(on_ray, "first", "release")
    assert ask_relay(on_ray, "second", "reserve", "node2") is True
    ask_relay(on_ray, "second", "release")
    assert actors(on_ray) == []


def test_where_no_cluster_is_the_command_that_starts_one_is_named(on_ray: OnRay) -> None:
    outside = PdctlThere(
        on_ray.cluster, on_ray.home, on_ray.cwd, {"RAY_ADDRESS": "http://10.77.0.10:8265"}
    )
    ran = outside.run("up", "-f", on_ray.write("chat"), "--on", "ray", host=on_ray.cluster.nodes[1])
    assert (ran.returncode, "ray start --address=" in ran.stderr) == (4, True)


def test_a_host_with_another_model_is_named_before_anything_starts(on_ray: OnRay) -> None:
    model, other = on_ray.cwd.parent / "small", on_ray.cwd.parent / "other.json"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(LLAMA))
    other.write_text(json.dumps({**LLAMA, "vocab_size": 32001}))
    file = Path(on_ray.write("chat"))
    file.write_text(file.read_text().replace("qwen3-8b", str(model)))
    host = on_ray.cluster.nodes[2]
    host.run("mount", "--bind", str(other), str(model / "config.json"))
    try:
        ran = on_ray.run("up", "-f", str(file), "--on", "ray", "-d")
    finally:
        host.run("umount", str(model / "config.json"))
    assert ran.returncode == 4
    assert f"config.json in {model} has other content on node3 than on node1." in ran.stderr
    assert on_ray.phases("chat") == {}


def test_labels_of_hosts_name_nvlink_domains(on_ray: OnRay) -> None:
    file = on_ray.write("chat", prefill=1, decode=5)
    up = ("up", "-f", file, "--on", "ray", "--place", "domain")
    shown = json.loads(on_ray.done(*up, "--dry-run", "--json"))["data"]["processes"]
    nodes = {one["places"][0]["node"] for one in shown if one["name"] != "router"}
    assert nodes == {"node2", "node3"}
    ran = on_ray.run(*up, "--total", "9")
    assert "node1 has 8 of 8 free, rack has 16 of 16 free" in ran.stderr
    domain = {"node1": "rack", "node2": "other", "node3": "rack"}
    hosts = ", ".join(f"{host}: {{domain: {name}}}" for host, name in domain.items())
    on_ray.write("chat", prefill=1, decode=5, cluster=f"{CLUSTER}hosts: {{{hosts}}}\n")
    shown = json.loads(on_ray.done(*up, "--dry-run", "--json"))["data"]["processes"]
    nodes = {one["places"][0]["node"] for one in shown if one["name"] != "router"}
    assert nodes == {"node1", "node3"}, "cluster.yaml wins"


def test_doctor_checks_every_host_and_that_they_meet(on_ray: OnRay) -> None:
    ran = on_ray.run("doctor", "--on", "ray", "--quick", "--json")
    checks = json.loads(ran.stdout)["data"]["checks"]
    reached = [(c["node"], c["outcome"]) for c in checks if c["id"] == "reachable"]
    assert reached == [("node1", "pass"), ("node2", "pass"), ("node3", "pass")]
    domains = [c["text"] for c in checks if c["id"] == "nvlink_domain"]
    assert domains == [f"{n} is in NVLink domain rack, by the cluster." for n in ("node2", "node3")]
    assert {c["node"] for c in checks if c["id"] == "open_files"} == {"node1", "node2", "node3"}


@pytest.fixture
def breakable(tmp_path: Path) -> Iterator[OnRay]:
    """pdctl on a cluster of its own, which the test may break."""
    if why := ray_cluster.missing():
        pytest.skip(why)
    (tmp_path / "ray").mkdir()
    with ray_cluster.ray_cluster(3, tmp_path / "ray") as cluster:
        yield PdctlThere(cluster, tmp_path / "state", tmp_path / "work")


@pytest.mark.ray
def test_a_host_that_was_cut_off_leaves_the_router_and_serves_again(breakable: OnRay) -> None:
    there = deployed(breakable, "ray")
    tasks = there.tasks("chat")
    gone = {p["name"] for p in there.state("chat")["processes"] if p["node"] == "node3"}
    there.cluster.nodes[2].unplug()
    until(lambda: not gone & there.serving("chat"))
    assert there.serving("chat") == set(there.phases("chat")) - gone
    assert all(there.serves("chat") for _ in range(5))
    there.cluster.nodes[2].plug()
    until(lambda: there.state("chat")["phase"] == "serving")
    assert there.tasks("chat") == tasks
    there.done("down", "chat")
    there.leaves_nothing()


@pytest.mark.ray
def test_engines_of_a_host_that_stays_away_start_on_other_hosts(breakable: OnRay) -> None:
    early = replace(breakable, variables={"PDCTL_MOVE_AFTER_S": "2"})
    deployed(early, "ray").moves_off_a_lost_host("chat", breakable.cluster.nodes[2])
