"""Real SGLang on the CPU, started, watched and stopped by pdctl, behind the real router."""

import json
import os
import random
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.real_engine.installed import MODEL, PYTHON, missing
from tests.real_engine.loopback import loopback_only

pytestmark = [
    pytest.mark.real_engine,
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]

PORT = 30000
ROUTER = f"http://127.0.0.1:{PORT}"
NUM_PROMPTS = 20
MAX_NEW_TOKENS = 16
ON_CPU = (
    "--device cpu --attention-backend torch_native --disable-overlap-schedule"
    " --max-total-tokens 8192 --max-running-requests 8 --mem-fraction-static 0.3"
    " --sleep-on-idle"  # else idle engines take whole cores from one that starts
)
ENVIRONMENT = {
    "SGLANG_USE_CPU_ENGINE": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
}
COLOCATED = {"colocated": {"engines": 1, "env": ENVIRONMENT}}


def split(decode_args: str = "", **env: str) -> dict[str, Any]:
    """The roles of 1P1D."""
    environment = {**ENVIRONMENT, **env}
    args = f"--disaggregation-decode-retraction-backup none {decode_args}"
    return {
        "prefill": {"engines": 1, "env": environment},
        "decode": {"engines": 1, "env": environment, "args": args},
    }


def document(name: str, model: Path, roles: Mapping[str, Any]) -> str:
    """A pd.yaml for engines on the CPU; JSON is YAML."""
    return json.dumps(
        {
            "schema": 1,
            "name": name,
            "model": str(model),
            "python": str(PYTHON),
            "transfer_backend": "mooncake_tcp",
            "args": ON_CPU,
            "router": {"port": PORT, "policy": "round_robin"},
            **roles,
        }
    )


@pytest.fixture(scope="module", autouse=True)
def _network() -> Iterator[None]:
    """Run where nobody else can reach Mooncake's listeners."""
    with loopback_only():
        yield


class Real:
    """Deployments of real engines in a state directory of their own."""

    def __init__(self, folder: Path, model: Path = MODEL) -> None:
        self.folder, self.model = folder, model
        self.env = {
            **os.environ,
            "PDCTL_STATE_HOME": str(folder / "state"),
            "HF_HUB_OFFLINE": "1",
            "NO_COLOR": "1",
        }

    def pdctl(self, *arguments: str, code: int = 0) -> Any:
        """The data of a pdctl command that ends with `code`."""
        done = subprocess.run(
            [sys.executable, "-m", "pdctl", *arguments, "--json"],
            capture_output=True,
            text=True,
            env=self.env,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == code, f"{done.stdout}\n{done.stderr}\n{self.logs()}"
        return json.loads(done.stdout.splitlines()[-1])

    def up(self, name: str, roles: Mapping[str, Any], *, code: int = 0) -> Any:
        """Start a deployment and wait until it serves, or fails as expected."""
        file = self.folder / f"{name}.yaml"
        file.write_text(document(name, self.model, roles))
        return self.pdctl("up", "-f", str(file), "-d", "--timeout", "10min", code=code)

    def logs(self) -> str:
        """The last lines of every process, for a failure's message."""
        tails = []
        for log in sorted(self.folder.glob("state/*/logs/*.log")):
            lines = log.read_text(errors="replace").splitlines()[-25:]
            tails.append("\n".join((f"== {log.name}", *lines)))
        return "\n".join(tails)

    def processes(self) -> list[psutil.Process]:
        """What still runs of any deployment started here."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("PDCTL_STATE_HOME") == self.env["PDCTL_STATE_HOME"]:
                    found.append(process)
            except psutil.Error:
                continue
        return found


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Real]:
    """Real engines; whatever a failed test leaves running is killed."""
    one = Real(tmp_path)
    yield one
    for process in one.processes():
        process.kill()


@pytest.fixture(scope="module")
def from_one(_network: None, tmp_path_factory: pytest.TempPathFactory) -> list[list[int]]:
    """What one colocated engine answers to each prompt."""
    one = Real(tmp_path_factory.mktemp("colocated"))
    try:
        one.up("together", COLOCATED)
        answers = [generate(prompt) for prompt in prompts()]
        one.pdctl("down", "together")
        assert one.processes() == []
    finally:
        for process in one.processes():
            process.kill()
    assert len({tuple(tokens) for tokens in answers}) > NUM_PROMPTS // 2, "the model is trivial"
    return answers


def prompts() -> list[list[int]]:
    """Token ids of 20 prompts of 4 to 400 tokens, none beginning like another."""
    chance = random.Random(7)
    lengths = [4, 400, *(chance.randint(5, 300) for _ in range(NUM_PROMPTS - 2))]
    return [[chance.randrange(3, 259) for _ in range(length)] for length in lengths]


def generate(input_ids: list[int], url: str = ROUTER) -> list[int]:
    """The greedy tokens that follow a prompt, through the router."""
    tokens = ask(input_ids, url)["output_ids"]
    assert len(tokens) == MAX_NEW_TOKENS
    return [int(token) for token in tokens]


def ask(input_ids: list[int], url: str = ROUTER) -> Any:
    """The whole answer to a prompt, through the router."""
    sampling = {"max_new_tokens": MAX_NEW_TOKENS, "temperature": 0, "ignore_eos": True}
    request = urllib.request.Request(
        f"{url}/generate",
        data=json.dumps({"input_ids": input_ids, "sampling_params": sampling}).encode(),
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


def timed(input_ids: list[int]) -> tuple[str, float]:
    """The id of a request, and the seconds that its client waited for the whole answer."""
    start_s = time.perf_counter()
    answer = ask(input_ids)
    return str(answer["meta_info"]["id"]), time.perf_counter() - start_s


def engines(status: Any) -> dict[str, Any]:
    """The rows of `status --json` by the engine's name."""
    return {row["target"]["name"]: row for row in status["data"]["engines"]}


def test_a_split_deployment_answers_like_one_colocated_engine(
    real: Real, from_one: list[list[int]]
) -> None:
    real.up("split", split())
    before = engines(real.pdctl("status", "--once", "split"))
    # one at a time: a batch of several rounds differently, and near ties fall the other way
    answers = [generate(prompt) for prompt in prompts()]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(generate, prompts()))
    after = engines(real.pdctl("status", "--once", "split"))
    clients = dict(timed(prompt) for prompt in prompts())
    explained = real.pdctl("explain", "--slowest", "1000", "--no-replay", "-n", "split")["data"]
    real.pdctl("down", "split")

    assert {name: row["health"] for name, row in before.items()} == {
        "prefill-0": "up",
        "decode-0": "up",
    }
    assert {name: row["sample"]["role"] for name, row in after.items()} == {
        "prefill-0": "prefill",
        "decode-0": "decode",
    }
    assert after["prefill-0"]["sample"]["transfer_gb_per_s"] > 0
    assert answers == from_one
    assert real.processes() == []
    check_explained(explained, clients)


def check_explained(found: Any, clients: Mapping[str, float]) -> None:
    """Both halves of every request were read from the engines' logs, and agree with its client."""
    by_rid = {one["rid"]: one for one in found["requests"]}
    assert clients.keys() <= by_rid.keys()
    for rid, seconds in clients.items():
        one = by_rid[rid]
        assert (one["prefill_engine"], one["decode_engine"]) == ("prefill-0", "decode-0")
        assert (one["is_guess"], one["missing"]) == (False, "")
        assert one["output_tokens"] == MAX_NEW_TOKENS
        assert 0 < one["ttft_s"] <= one["total_s"] < seconds


def test_kv_that_does_not_arrive_is_seen_in_the_answers(
    real: Real, from_one: list[list[int]]
) -> None:
    real.up("dropped", split(PDCTL_TEST_DROP_KV="1"))
    answers = [generate(prompt) for prompt in prompts()]
    real.pdctl("down", "dropped")
    assert not any(one == other for one, other in zip(answers, from_one, strict=True))
    assert real.processes() == []


def test_an_engine_that_cannot_start_is_told_by_its_log_and_leaves_nothing(real: Real) -> None:
    failure = real.up("broken", split("--max-total-tokens 1"), code=5)
    assert failure["status"] == "error"
    assert "decode-0" in failure["error"]["message"]
    assert real.processes() == []
