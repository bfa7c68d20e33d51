"""From a deployment to processes: models, GPUs and ports."""

import shutil
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pdctl.deployment.build import deployment_of
from pdctl.deployment.flags import named_ports, ports_of
from pdctl.deployment.ports import HTTP_FROM
from pdctl.deployment.records import ObservePlan, ProcessSpec, RouterPlan
from pdctl.engines.launchers import local
from pdctl.engines.launchers.protocol import HERE
from pdctl.engines.launchers.registry import LOCAL, launcher_named
from pdctl.engines.lifecycle import start
from pdctl.engines.lifecycle.start import Prepared, holding
from pdctl.errors import InvalidInput
from pdctl.inspection.records import Gpu, SglangInstall
from pdctl.paths import HOME_VARIABLE, profiles_dir
from pdctl.perf_model.records import Parallelism
from tests.e2e.cli import free_port
from tests.engines.world import spec

LAUNCHER = launcher_named()


def is_held(port: int) -> bool:
    return not LAUNCHER.is_port_free(HERE, port, is_strict=True)


def is_port_free(port: int) -> bool:
    return LAUNCHER.is_port_free(HERE, port)


def unheld_port() -> int:
    """A free port that no earlier test's connections linger on: those count as held."""
    port = free_port()
    while is_held(port):
        port = free_port(port + 1)
    return port


def test_a_held_port_is_seen_by_others_and_open_to_its_server() -> None:
    port = unheld_port()
    its = replace(spec("decode-0", "decode", 1), port=port)
    assert not is_held(port)
    with holding(LOCAL, (its,)):
        assert is_held(port)
        with socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(("127.0.0.1", port))
            server.listen()
            socket.create_connection(("127.0.0.1", port), 5).close()
            assert not is_port_free(port)
    assert is_port_free(port)


def test_a_port_that_is_taken_is_left_to_its_owner() -> None:
    with socket.socket() as owner:
        owner.bind(("127.0.0.1", 0))
        owner.listen()
        port = owner.getsockname()[1]
        with holding(LOCAL, (replace(spec("decode-0", "decode", 1), port=port),)):
            assert is_held(port)


def test_the_bootstrap_port_is_held_too() -> None:
    port = unheld_port()
    its = replace(spec("prefill-0", "prefill", 1), port=port, bootstrap_port=port + 1)
    with holding(LOCAL, (its,)):
        assert is_held(port)
        assert is_held(port + 1)


GPUS = tuple(Gpu(i, "NVIDIA H200", f"GPU-{i}", 1 << 37, 0) for i in range(4))


@pytest.mark.parametrize(
    ("visible", "indices"), [(None, [0, 1, 2, 3]), ("2,0", [2, 0]), ("GPU-3", [3]), ("", [])]
)
def test_only_gpus_that_cuda_visible_devices_leaves_are_taken(
    visible: str | None, indices: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(local, "query_gpus", lambda: GPUS)
    assert [gpu.index for gpu in LAUNCHER.gpus(HERE)] == indices


def test_another_state_directory_waits_while_ports_are_chosen_here(home: Path) -> None:
    with (
        start.planning(),
        socket.socket(socket.AF_UNIX) as other,
        pytest.raises(OSError, match="in use"),
    ):
        other.bind(start.PLANNING_ADDRESS)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(start.PLANNING_ADDRESS)


def test_nobody_waits_for_ever_for_a_stranger_who_keeps_the_address(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "ALONE_WAIT_S", 0.05)
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.bind(start.PLANNING_ADDRESS)
        with start.planning():
            pass


def on_four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on this machine has four H200 and SGLang."""
    install = SglangInstall("python3", "0.5.23", ("nixl",), None)
    monkeypatch.setattr(start, "_install", lambda deployment, launcher, nodes: install)
    monkeypatch.setattr(start, "gpus_of_nodes", lambda deployment, launcher, nodes: {HERE: GPUS})


def test_users_who_start_at_the_same_moment_share_no_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No engine listens yet, and each user has a state directory that the other cannot read."""
    on_four_gpus(monkeypatch)
    model = tmp_path / "llama-8b"
    model.mkdir()
    shutil.copy(profiles_dir() / "models" / "llama-3.1-8b.json", model / "config.json")

    def chosen(user: str) -> tuple[ProcessSpec, ...]:
        monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / user))
        wanted = deployment_of(
            model=str(model),
            prefill=1,
            total=2,
            parallelism=Parallelism(tp=2, dp=2),
            router=RouterPlan(port=unheld_port()),
        )
        return start.prepare(wanted).specs

    first = chosen("first")
    with holding(LOCAL, first):
        second = chosen("second")
    assert not ports_from(first) & ports_from(second)
    assert ports_from(chosen("third")) & ports_from(first), "they are free again"


def ports_from(specs: tuple[ProcessSpec, ...]) -> set[int]:
    """Every port that these processes open. SGLang derives more from --dist-init-addr."""
    own = [ports_of(spec) for spec in specs if spec.role != "router"]
    derived = {p.dist_init + i for p in own if p.dist_init for i in range(7)}
    return {port for port in named_ports(specs) if port >= HTTP_FROM} | derived


def started_with(
    model: Path, config: str, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...] = ()
) -> Prepared:
    """What `up` would start of a model with this config.json, on four H200 with SGLang."""
    model.mkdir()
    (model / "config.json").write_text(config, encoding="utf-8")
    on_four_gpus(monkeypatch)
    router = RouterPlan(port=unheld_port())
    wanted = deployment_of(model=str(model), prefill=0, total=1, args=args, router=router)
    return start.prepare(wanted)


def test_a_model_whose_shape_cannot_be_read_is_started_with_a_warning(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = '{"architectures": ["NewForCausalLM"], "num_hidden_layers": -3}'
    found = started_with(tmp_path / "new", config, monkeypatch)
    assert len(found.specs) == 2
    (warning,) = found.warnings
    assert "cannot read this model's shape" in warning
    assert "num_hidden_layers" in warning


def test_a_quantization_that_sglang_cannot_read_is_refused(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = (profiles_dir() / "models" / "qwen3-8b.json").read_text(encoding="utf-8")
    with pytest.raises(InvalidInput, match="SGLang refuses to start"):
        started_with(tmp_path / "m", config, monkeypatch, args=("--quantization", "awq"))


@pytest.mark.parametrize(
    ("changes", "is_replayed"),
    [
        ({}, True),
        ({"request_times": False}, False),
        ({"observe": ObservePlan(what_if=False)}, False),
    ],
)
def test_a_supervisor_replays_requests_that_have_log_lines(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    is_replayed: bool,
) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    deployment = deployment_of(model="qwen3-8b", prefill=0, total=1, engine="sim")
    deployment = replace(deployment, **changes)
    wanted = Prepared(deployment, (spec("router", "router", 1),), None, "", "", ())
    launch = start.write_start_files(wanted, detached=True, ready_timeout_s=1.0)
    assert launch.what_if is is_replayed
