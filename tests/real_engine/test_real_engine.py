"""Real SGLang on the CPU, started, watched and stopped by pdctl, behind the real router."""

import json
import os
import random
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
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
NUM_PROMPTS = 20
MAX_NEW_TOKENS = 16
ON_CPU = (
    "--device cpu --attention-backend torch_native --disable-overlap-schedule"
    " --max-total-tokens 8192 --max-running-requests 8 --mem-fraction-static 0.3"
)
ENVIRONMENT = {
    "SGLANG_USE_CPU_ENGINE": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
}
SPLIT = {
    "prefill": {"engines": 1, "env": ENVIRONMENT},
    "decode": {
        "engines": 1,
        "env": ENVIRONMENT,
        "args": "--disaggregation-decode-retraction-backup none",
    },
}
COLOCATED = {"colocated": {"engines": 1, "env": ENVIRONMENT}}


@pytest.fixture(scope="module", autouse=True)
def _network() -> Iterator[None]:
    """Run where nobody else can reach Mooncake's listeners."""
    with loopback_only():
        yield


class Real:
    """Deployments of real engines in a state directory of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
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

    def up(self, name: str, roles: dict[str, Any]) -> Any:
        """Start a deployment and wait until it serves."""
        document = {
            "schema": 1,
            "name": name,
            "model": str(MODEL),
            "python": str(PYTHON),
            "transfer_backend": "mooncake_tcp",
            "args": ON_CPU,
            "router": {"port": PORT, "policy": "round_robin"},
            **roles,
        }
        file = self.folder / f"{name}.yaml"
        file.write_text(json.dumps(document))  # JSON is YAML
        return self.pdctl("up", "-f", str(file), "-d", "--timeout", "10min")

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


def prompts() -> list[list[int]]:
    """Token ids of 20 prompts of 4 to 400 tokens, none beginning like another."""
    chance = random.Random(7)
    lengths = [4, 400, *(chance.randint(5, 300) for _ in range(NUM_PROMPTS - 2))]
    return [[chance.randrange(3, 259) for _ in range(length)] for length in lengths]


def generate(input_ids: list[int]) -> list[int]:
    """The greedy tokens that follow a prompt, through the router."""
    sampling = {"max_new_tokens": MAX_NEW_TOKENS, "temperature": 0, "ignore_eos": True}
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/generate",
        data=json.dumps({"input_ids": input_ids, "sampling_params": sampling}).encode(),
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        tokens = json.load(answer)["output_ids"]
    assert len(tokens) == MAX_NEW_TOKENS
    return [int(token) for token in tokens]


def engines(status: Any) -> dict[str, Any]:
    """The rows of `status --json` by the engine's name."""
    return {row["target"]["name"]: row for row in status["data"]["engines"]}


def test_a_split_deployment_answers_like_one_colocated_engine(real: Real) -> None:
    real.up("split", SPLIT)
    before = engines(real.pdctl("status", "--once", "split"))
    with ThreadPoolExecutor(4) as pool:
        from_split = list(pool.map(generate, prompts()))
    after = engines(real.pdctl("status", "--once", "split"))
    real.pdctl("down", "split")

    assert {name: row["health"] for name, row in before.items()} == {
        "prefill-0": "up",
        "decode-0": "up",
    }
    assert {name: row["sample"]["role"] for name, row in after.items()} == {
        "prefill-0": "prefill",
        "decode-0": "decode",
    }
    assert real.processes() == []

    real.up("together", COLOCATED)
    from_one = [generate(prompt) for prompt in prompts()]
    real.pdctl("down", "together")
    assert real.processes() == []
    assert from_split == from_one
    assert len({tuple(tokens) for tokens in from_one}) > NUM_PROMPTS // 2, "the model is trivial"


def test_an_engine_that_cannot_start_is_told_by_its_log_and_leaves_nothing(real: Real) -> None:
    broken = {**SPLIT["decode"], "args": "--max-total-tokens 1"}
    with pytest.raises(AssertionError) as failure:
        real.up("broken", {**SPLIT, "decode": broken})
    assert '"status": "error"' in str(failure.value)
    deadline = time.monotonic() + 30
    while real.processes() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert real.processes() == []
