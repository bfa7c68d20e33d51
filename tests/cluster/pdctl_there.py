"""pdctl as a user of the cluster calls it, on whichever host."""

import json
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import psutil

import pdctl
from tests.cluster.hosts import Host
from tests.cluster.slurm import Slurm, until

SIMULATED = """\
schema: 1
name: {name}
model: qwen3-8b
engine: sim
sim_speed: 20
prefill: {{engines: {prefill}, tp: 2}}
decode: {{engines: {decode}, tp: 2}}
"""
R1 = """\
schema: 1
name: r1
model: deepseek-r1
engine: sim
sim_speed: 20
prefill: {engines: 1, tp: 8}
decode: {engines: 1, tp: 16}
"""
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
    "torch_dtype": "bfloat16",
    "max_position_embeddings": 4096,
}
CLUSTER = "schema: 1\ngpus_per_node: 8\n"
_CLIENT = """
import json, sys, urllib.request
body = {"model": "qwen3-8b", "prompt": "hello", "max_tokens": int(sys.argv[2]), "stream": True}
ask = urllib.request.Request(
    sys.argv[1] + "/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"}
)
answer = urllib.request.urlopen(ask, timeout=60)
print(answer.readline().decode()[:5], flush=True)
print(answer.read().decode().split()[-1])
"""


class Cluster(Protocol):
    """Hosts that commands and engines run on."""

    @property
    def login(self) -> Host: ...

    @property
    def environment(self) -> dict[str, str]: ...


AnyCluster = TypeVar("AnyCluster", bound=Cluster)


@dataclass(frozen=True)
class PdctlThere(Generic[AnyCluster]):
    """pdctl with its state in `home`. variables: more of the environment of every command.

    patience_s: the longest time for one command.
    """

    cluster: AnyCluster
    home: Path
    cwd: Path
    variables: Mapping[str, str] = field(default_factory=dict)
    patience_s: float = 60.0

    @property
    def environment(self) -> dict[str, str]:
        own = {"PDCTL_STATE_HOME": str(self.home), "PDCTL_BACKOFF_S": "0.5", "NO_COLOR": "1"}
        path = {"PYTHONPATH": str(Path(pdctl.__file__).parents[1])}
        return {**self.cluster.environment, **own, **path, **self.variables}

    def write(self, name: str, *, prefill: int = 2, decode: int = 8, cluster: str = CLUSTER) -> str:
        """A pd.yaml and a cluster.yaml; the path of the former."""
        (self.cwd / "cluster.yaml").write_text(cluster)
        file = self.cwd / f"{name}.yaml"
        file.write_text(SIMULATED.format(name=name, prefill=prefill, decode=decode))
        return str(file)

    def run(self, *args: str, host: Host | None = None) -> "subprocess.CompletedProcess[str]":
        """One command to its end, on the login host unless another is named."""
        where = host or self.cluster.login
        argv = (sys.executable, "-m", "pdctl", *args)
        return where.run(*argv, env=self.environment, cwd=self.cwd, timeout_s=self.patience_s)

    def done(self, *args: str, host: Host | None = None) -> str:
        """What a command that succeeds prints."""
        ran = self.run(*args, host=host)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def state(self, name: str) -> dict[str, Any]:
        """What state.json says; {} while there is none."""
        try:
            found = json.loads((self.home / name / "state.json").read_text())
        except FileNotFoundError:
            return {}
        assert isinstance(found, dict)
        return found

    def phases(self, name: str) -> dict[str, str]:
        """The phase of each process."""
        return {p["name"]: p["phase"] for p in self.state(name).get("processes", ())}

    def serving(self, name: str) -> set[str]:
        """The processes that serve."""
        return {process for process, phase in self.phases(name).items() if phase == "serving"}

    def tasks(self, name: str) -> dict[str, str]:
        """What names the present start of each process."""
        return {p["name"]: p["handle"].split()[0] for p in self.state(name)["processes"]}

    def until_serving(self, name: str) -> None:
        """Wait until all processes of a deployment serve."""
        until(lambda: self.state(name).get("phase") == "serving")

    def serves(self, name: str) -> bool:
        """True if a request from the login host is answered to its end."""
        return self.client(name, 3).communicate(timeout=60)[0] == "data:\n[DONE]\n"

    def serves_and_scales(self, name: str) -> None:
        """Look at a running 2P8D, change both counts and read a log; requests are served."""
        assert {p["node"] for p in self.state(name)["processes"]} == {"node1", "node2", "node3"}
        assert self.serves(name)
        assert "2P8D · simulated 20× · serving" in self.done("status", "--once")

        assert "3P9D" in self.done("scale", "--prefill", "3", "--decode", "9")
        assert "2P10D" in self.done("scale", "--decode", "10")
        assert self.serves(name)
        assert "The server is fired up" in self.done("logs", "decode-0", "--tail", "5")

    def client(self, name: str, tokens: int) -> "subprocess.Popen[str]":
        """A client that writes "data:" after the first token and "[DONE]" after the last."""
        url = self.state(name)["endpoint"]
        argv = self.cluster.login.command(("python3", "-c", _CLIENT, url, str(tokens)))
        return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)

    def processes(self, word: str) -> list[psutil.Process]:
        """Processes of this test, on whichever host, with a word in their command line."""
        return [p for p in psutil.process_iter() if self._is_own(p) and word in _command(p)]

    def _is_own(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get("PDCTL_STATE_HOME") == str(self.home)
        except psutil.Error:
            return False

    def kill(self, word: str) -> None:
        """Kill the processes of this test with a word in their command line."""
        for process in self.processes(word):
            with suppress(psutil.NoSuchProcess):  # it ended with another one
                process.kill()

    def engines_on(self, name: str, node: str) -> list[psutil.Process]:
        """The processes of the engines that a deployment has on a node."""
        its = [p for p in self.state(name)["processes"] if p["node"] == node]
        ports = {p["url"].rpartition(":")[2] for p in its}
        found = (p for port in ports for p in self.processes(f"--port {port}"))
        return [p for p in found if "srun" not in _command(p)]

    def moves_off_a_lost_host(self, name: str, host: Host) -> None:
        """Cut off a host: its engines serve elsewhere, and the old ones end once it is back."""
        old = self.engines_on(name, host.name)
        assert old
        host.unplug()
        until(lambda: not [p for p in self.state(name)["processes"] if p["node"] == host.name])
        self.until_serving(name)
        assert self.serves(name)
        assert f"{host.name} has left the network" in self.done("logs", "--events")
        host.plug()
        until(lambda: not any(process.is_running() for process in old))
        assert self.state(name)["phase"] == "serving"
        self.done("down", name)
        self.leaves_nothing()

    def leaves_nothing(self) -> None:
        """Wait until no process of this test is left on any host."""
        until(lambda: not self.processes(""))


There = TypeVar("There", bound="PdctlThere[Any]")


def deployed(there: There, on: str) -> There:
    """pdctl in a new directory, where it has started 2P8D."""
    there.cwd.mkdir()
    there.done("up", "-f", there.write("chat"), "--on", on, "-d")
    return there


class OnSlurm(PdctlThere[Slurm]):
    """pdctl whose commands may run inside an allocation."""

    def inside(self, job: str) -> "OnSlurm":
        """The same, its commands run inside an allocation."""
        return replace(self, variables={**self.variables, "SLURM_JOB_ID": job})

    def allocate(self) -> str:
        """An allocation of every node, which outlives any of them; its number."""
        options = (f"--nodes={len(self.cluster.nodes)}", "--gres=gpu:8", "--no-shell", "--no-kill")
        done = self.cluster.run("salloc", *options)
        return done.stderr.partition("allocation ")[2].split()[0]


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
