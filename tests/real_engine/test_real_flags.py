"""The command lines pdctl writes, read by SGLang's own parser."""

import json
import os
import subprocess
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from pdctl.deployment.build import deployment_of
from pdctl.deployment.checks import ENGINE_FLAGS, check_args
from pdctl.deployment.flags import engine_argv
from pdctl.deployment.records import Ports
from pdctl.errors import InvalidInput
from pdctl.hosts import LOOPBACK
from pdctl.perf_model.records import Parallelism, Role
from tests.deployment.examples import with_args
from tests.real_engine.installed import MODEL, PYTHON, missing

pytestmark = [
    pytest.mark.real_engine,
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]

PORTS = Ports(http=20000, bootstrap=21000, nccl=25000, dist_init=24000)
ROLES: tuple[Role, ...] = ("prefill", "decode", "colocated")
SHAPES = (
    Parallelism(),
    Parallelism(tp=2),
    Parallelism(pp=2),
    Parallelism(tp=4, dp=2, ep=4),
)
# the flags of versions before and after attention dp got its own
CASES = list(product(ROLES, SHAPES, ((0, 5, 10), (0, 5, 23))))


def command(role: Role, parallelism: Parallelism, version: tuple[int, ...]) -> tuple[str, ...]:
    deployment = deployment_of(
        model=str(MODEL),
        total=2,
        prefill=0 if role == "colocated" else 1,
        parallelism=parallelism,
        args=("--device", "cpu", "--attention-backend", "torch_native"),
        trust_remote_code=True,
    )
    return engine_argv(
        deployment,
        role,
        PORTS,
        address=LOOPBACK,
        python="python",
        version=version,
        backend="mooncake",
    )


@cache
def understood() -> dict[str, Any]:
    """What SGLang's parser makes of every case, in one go: importing it takes seconds."""
    argvs = [command(*case)[3:] for case in CASES]
    done = subprocess.run(
        [str(PYTHON), str(Path(__file__).with_name("sglang_parser.py"))],
        input=json.dumps(argvs),
        capture_output=True,
        text=True,
        env={**os.environ, "SGLANG_USE_CPU_ENGINE": "1", "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_sglang_understands_every_command_line_as_it_was_meant() -> None:
    for (role, shape, version), found in zip(CASES, understood()["resolved"], strict=True):
        case = f"{role} {shape} {version}"
        mode = "null" if role == "colocated" else role
        assert found["disaggregation_mode"] == mode, case
        sizes = (found["tp_size"], found["pp_size"], found["attn_dp_size"], found["ep_size"])
        assert sizes == (shape.tp, shape.pp, shape.dp, shape.ep), case
        assert found["dp_size"] == 1, case
        assert (found["port"], found["nccl_port"]) == (20000, 25000), case
        assert found["dist_init_addr"] == "127.0.0.1:24000", case
        assert found["enable_metrics"], case
        assert found["trust_remote_code"], case
        if role != "colocated":
            assert found["disaggregation_bootstrap_port"] == 21000, case


def test_each_spelling_of_a_flag_pdctl_sets_is_refused_and_no_other_flag_is() -> None:
    for spellings in understood()["spellings"]:
        for spelling in (s for s in spellings if s.startswith("--")):
            is_refused = "cannot be set" in refusal(spelling)
            assert is_refused == bool(set(spellings) & ENGINE_FLAGS.keys()), spelling


def refusal(flag: str) -> str:
    """Why pdctl refuses a flag that both roles are given; nothing when it passes it on."""
    try:
        check_args(with_args(flag, flag))
    except InvalidInput as problem:
        return problem.message
    return ""
