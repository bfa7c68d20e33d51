import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import yaml

from pdctl.deployment.exports import EXPORTS
from pdctl.deployment.exports.miles import render_external, render_flags, render_yaml
from pdctl.deployment.exports.shell import shell
from pdctl.deployment.pd_yaml import read_deployment
from pdctl.deployment.records import ProcessSpec, RolePlan
from pdctl.errors import InvalidInput
from pdctl.perf_model.records import Parallelism
from tests.deployment.examples import colocated, split, with_args
from tests.deployment.test_expand import expanded
from tests.engines.world import fleet_specs

PRINT = "import os, sys; print(sys.argv[1:], os.environ.get('ODD'), flush=True)"


def printing(name: str, folder: Path, *args: str, **fields: object) -> ProcessSpec:
    """A process that logs the arguments and the environment it got."""
    return ProcessSpec(
        name=name,
        role="router" if name == "router" else "prefill",
        argv=(sys.executable, "-c", PRINT, *args),
        env={"ODD": "a 'b' $HOME"},
        gpus=(),
        host="127.0.0.1",
        port=1,
        log=folder / "logs of it" / f"{name}.log",
        bootstrap_port=21000,
    )


def test_the_script_runs_as_it_stands_whatever_the_arguments_hold(tmp_path: Path) -> None:
    odd = ("it's", "$HOME", '{"a": 1}', "a b;c")
    specs = (printing("router", tmp_path), printing("prefill-0", tmp_path, *odd))
    done = subprocess.run(
        ["bash", "-c", shell(specs)], capture_output=True, text=True, start_new_session=True
    )
    assert done.stderr == ""
    logged = (tmp_path / "logs of it" / "prefill-0.log").read_text()
    assert logged == f"{list(odd)} a 'b' $HOME\n"
    router = (tmp_path / "logs of it" / "router.log").read_text()
    assert router.startswith("['--prefill', 'http://127.0.0.1:1', '21000']")


@contextmanager
def default_action(number: signal.Signals) -> Iterator[None]:
    """What is started meanwhile does not inherit that a signal is ignored."""
    before = signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGHUP])
def test_stopping_the_script_stops_what_it_started(tmp_path: Path, stop: signal.Signals) -> None:
    waiting = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    specs = [
        replace(printing(name, tmp_path), argv=(sys.executable, "-c", waiting))
        for name in ("router", "prefill-0")
    ]
    script = tmp_path / "start.sh"
    script.write_text(shell(specs))
    with default_action(stop):  # whoever ran the tests may ignore it, and then the script would too
        started = subprocess.Popen(["bash", str(script)], stdout=subprocess.DEVNULL)
    logs = [spec.log for spec in specs]
    while not all(log.exists() and log.read_text() for log in logs):
        assert started.poll() is None
        time.sleep(0.01)
    pids = [int(log.read_text()) for log in logs]
    started.send_signal(stop)
    started.wait()
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_the_scripts_router_lists_what_pdctl_would_have_added() -> None:
    text = shell(expanded(split(1, 2)))
    assert "--prefill http://127.0.0.1:20000 21000 --decode http://127.0.0.1:20010" in text
    assert "CUDA_VISIBLE_DEVICES=1" in text
    together = shell(expanded(colocated(2)))
    assert "--worker-urls http://127.0.0.1:20000 http://127.0.0.1:20010" in together


@pytest.mark.parametrize("name", EXPORTS)
def test_every_export_is_text_for_the_same_deployment(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PDCTL_STATE_HOME", str(tmp_path))
    export = EXPORTS[name]
    specs = expanded(split(1, 2)) if export.needs_processes else ()
    text = export.render(split(1, 2), specs)
    assert text.endswith("\n")
    kind = name.partition("-")[0]
    assert ("sglang.launch_server" in text) is (kind in ("shell", "slurm", "k8s"))


def test_miles_takes_equal_engines_as_flags() -> None:
    text = render_flags(split(2, 6, parallelism=Parallelism(tp=4, dp=2)))
    assert text == (
        "--rollout-num-gpus 32 --rollout-num-gpus-per-engine 4 --prefill-num-servers 2"
        " --sglang-dp-size 2 --sglang-enable-dp-attention\n"
    )


def test_miles_flags_cannot_say_what_differs() -> None:
    unequal = split(
        roles={"prefill": RolePlan(1, Parallelism(tp=2)), "decode": RolePlan(1, Parallelism(tp=4))}
    )
    for deployment in (unequal, colocated(), with_args("--page-size 1", "--page-size 1")):
        with pytest.raises(InvalidInput) as error:
            render_flags(deployment)
        assert "render miles --as yaml" in error.value.hint


def test_the_miles_file_has_a_group_per_role_and_never_the_flag_beside_it() -> None:
    decode = "--cuda-graph-bs-decode 1 2 4 --mem-fraction-static 0.8 --disable-overlap-schedule"
    text = render_yaml(with_args("--moe-a2a-backend deepep", decode))
    assert "but not both" in text
    assert "--rollout-external" in text
    assert "model_path" not in text  # a bundled model has no weights
    (model,) = yaml.safe_load(text)["sglang"]
    prefill, decode_group = model["server_groups"]
    assert prefill == {
        "worker_type": "prefill",
        "num_gpus": 1,
        "num_gpus_per_engine": 1,
        "overrides": {"moe_a2a_backend": "deepep"},
    }
    assert decode_group["overrides"] == {
        "cuda_graph_bs_decode": [1, 2, 4],
        "mem_fraction_static": 0.8,
        "disable_overlap_schedule": True,
    }


def test_a_miles_file_reads_back_as_the_same_layout(tmp_path: Path) -> None:
    roles = {
        "prefill": RolePlan(2, Parallelism(tp=2), ("--page-size", "64")),
        "decode": RolePlan(3, Parallelism(tp=4, pp=2, dp=4, ep=4), ("--page-size", "64")),
    }
    deployment = split(roles=roles, model="meta/llama")
    path = tmp_path / "miles.yaml"
    path.write_text(render_yaml(deployment))
    assert read_deployment(path).roles == roles
    path.write_text(render_yaml(replace(colocated(4), model="meta/llama")))
    assert read_deployment(path).layout == "4C"


def test_miles_gets_the_addresses_of_engines_and_not_of_the_router() -> None:
    specs = fleet_specs(1, 2)
    text = render_external(split(1, 2), specs)
    addresses = " ".join(f"127.0.0.1:{spec.port}" for spec in specs[1:])
    assert f"--rollout-external-engine-addrs {addresses} " in text
    assert text.endswith("--rollout-num-gpus 3 --rollout-num-gpus-per-engine 1\n")
    assert "--prefill-num-servers" not in text
    larger = replace(specs[1], gpus=(0, 1))
    with pytest.raises(InvalidInput, match="engines of 1 and 2 GPUs"):
        render_external(split(1, 2), (specs[0], larger, specs[2]))


def test_wide_engines_have_the_settings_of_up_in_miles_too() -> None:
    wide = split(1, 1, parallelism=Parallelism(tp=16, dp=16, ep=16))
    (model,) = yaml.safe_load(render_yaml(wide))["sglang"]
    for group in model["server_groups"]:
        assert group["overrides"]["chunked_prefill_size"] == 16 * 2048
        assert group["overrides"]["mem_fraction_static"] == 0.835
    assert "--sglang-chunked-prefill-size 32768 --sglang-mem-fraction-static 0.835" in (
        render_flags(wide)
    )
