from dataclasses import replace
from pathlib import Path

import pytest

from pdctl.deployment.containers import container_of, in_container, pyxis_options, run
from pdctl.deployment.exports.shell import shell
from pdctl.deployment.records import Container, Deployment
from pdctl.errors import InvalidInput
from tests.deployment.examples import split
from tests.engines.world import spec

DOCKER = Container("docker", "sglang:1", devices=("/dev/infiniband",), options=("--init",))
ENGINE = replace(spec("decode-0", "decode", 1), env={"HF_TOKEN": "secret"}, container=DOCKER)


def test_without_a_container_a_command_stays_as_it_is() -> None:
    plain = replace(ENGINE, container=None)
    assert in_container(plain, plain.argv, name="x") == plain.argv
    assert container_of(split(), "decode") is None
    assert container_of(split(container=DOCKER, engine="sim"), "decode") is None


def test_docker_gets_everything_and_no_value_of_a_variable() -> None:
    argv = in_container(ENGINE, ENGINE.argv, name="pdctl-x", mounts=("/key.py",))
    assert argv[:4] == ("docker", "run", "--rm", "--pull=never")
    assert argv[argv.index("--name") + 1] == "pdctl-x"
    assert argv[-4:] == ("--init", "sglang:1", *ENGINE.argv)
    assert {"--gpus", "--device=/dev/infiniband", "--volume=/key.py:/key.py:ro"} < set(argv)
    assert {"--ulimit=memlock=-1", "--ipc=host", "--env=HF_TOKEN", "--env=PDCTL_RUN"} < set(argv)
    assert "secret" not in " ".join(argv)


def test_shared_memory_of_its_own_replaces_the_host_s() -> None:
    own = replace(ENGINE, container=replace(DOCKER, shared_memory="64g"))
    argv = in_container(own, own.argv, name="x")
    assert "--shm-size=64g" in argv
    assert "--ipc=host" not in argv


def test_apptainer_binds_and_inherits_its_environment() -> None:
    own = replace(ENGINE, container=Container("apptainer", "/img/sglang.sif", mounts=("/a:/b",)))
    argv = in_container(own, own.argv, name="x")
    assert argv == (
        *("apptainer", "exec", "--nv", "--bind", "/a:/b", "/img/sglang.sif"),
        *ENGINE.argv,
    )


def test_pyxis_is_a_set_of_options_of_srun() -> None:
    own = replace(ENGINE, container=Container("pyxis", "/img/sglang.sqsh", mounts=("/a", "/b:/c")))
    assert in_container(own, own.argv, name="x") == own.argv
    assert own.container is not None
    with pytest.raises(InvalidInput, match="Slurm job only"):
        run(own.container, own.argv)
    assert pyxis_options(own.container, variables=("B", "A"))[:3] == (
        "--container-image=/img/sglang.sqsh",
        "--container-mounts=/a,/b:/c",
        "--container-env=A,B",
    )


def mounts_of(deployment: Deployment) -> tuple[str, ...]:
    container = container_of(deployment, "decode")
    assert container is not None
    return container.mounts


def test_a_model_s_directory_is_mounted_once() -> None:
    on_disk = split(container=DOCKER, model="/lustre/models/llama")
    assert mounts_of(on_disk) == ("/lustre/models/llama:/lustre/models/llama:ro",)
    whole = replace(DOCKER, mounts=("/lustre:/lustre",))
    assert mounts_of(replace(on_disk, container=whole)) == ("/lustre:/lustre",)
    elsewhere = replace(DOCKER, mounts=("/lustre:/data",))
    assert len(mounts_of(replace(on_disk, container=elsewhere))) == 2
    assert mounts_of(split(container=DOCKER, model="Qwen/Qwen3-8B")) == ()


def test_a_shell_script_shows_the_container_of_engines_and_not_of_the_router() -> None:
    router = replace(spec("router", "router", 0), log=Path("/logs/router.log"))
    lines = shell((router, replace(ENGINE, log=Path("/logs/decode-0.log")))).splitlines()
    assert sum("docker run" in line for line in lines) == 1
