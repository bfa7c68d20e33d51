"""Command lines that run an engine in a container, for docker, podman, apptainer and pyxis."""

import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from pdctl.deployment.records import Container, ContainerRuntime, Deployment, ProcessSpec
from pdctl.deployment.sglang_flags import options
from pdctl.deployment.strict_yaml import Field
from pdctl.errors import InvalidInput
from pdctl.perf_model.records import Role

RUNTIMES: tuple[ContainerRuntime, ...] = ("docker", "podman", "apptainer", "pyxis")
KEYS = ("runtime", "image", "python", "mounts", "devices", "shared_memory", "ulimits", "options")
_DAEMON_KEYS = ("devices", "shared_memory", "ulimits")  # elsewhere the host's apply
# docker and podman pass on only variables that are named; their values stay out of argv
PASSED = ("PDCTL_RUN", "PDCTL_TASK", "PDCTL_API_KEY", "SPT_NOENV", "NO_PROXY", "no_proxy")


def in_container(
    spec: ProcessSpec, argv: Sequence[str], *, name: str, mounts: Sequence[str] = ()
) -> tuple[str, ...]:
    """The command that runs `argv` of a process in its container; `argv` itself without one.

    Pyxis needs no command: `pyxis_options` makes srun start the step in the container.

    Args:
        name: of the container, where the runtime names one.
        mounts: files of this host that the command needs, read-only.
    """
    container = spec.container
    if container is None or container.runtime == "pyxis":
        return tuple(argv)
    variables = tuple(sorted({*spec.env, *PASSED}))
    readonly = tuple(f"{path}:{path}:ro" for path in mounts)
    return run(container, argv, name=name, variables=variables, mounts=readonly)


def run(
    container: Container,
    argv: Sequence[str],
    *,
    name: str = "",
    variables: Sequence[str] = (),
    mounts: Sequence[str] = (),
) -> tuple[str, ...]:
    """The command that runs `argv` in a container that sees the GPUs, network and processes.

    The image has to be there: nothing is pulled. Raises InvalidInput for pyxis, whose containers
    srun starts.

    Source: docker run 28.2, podman run 4.3, apptainer exec 1.4.
    """
    build: Mapping[str, Callable[..., tuple[str, ...]]] = {
        "docker": _daemon,
        "podman": _daemon,
        "apptainer": _apptainer,
    }
    if container.runtime not in build:
        raise InvalidInput(
            "Pyxis starts containers in a Slurm job only.",
            hint="--on slurm, or container: {runtime: docker}",
            code="no_pyxis",
        )
    head = build[container.runtime](container, name, variables, (*container.mounts, *mounts))
    return (*head, *container.options, container.image, *argv)


def _daemon(
    container: Container, name: str, variables: Sequence[str], mounts: Sequence[str]
) -> tuple[str, ...]:
    gpus = ("--gpus", "all") if container.runtime == "docker" else _PODMAN_GPUS
    memory = container.shared_memory
    return (
        *(container.runtime, "run", "--rm", "--pull=never"),
        *(("--name", name) if name else ()),
        # CUDA shares memory between engines only in one process and IPC namespace
        *("--network=host", "--pid=host", f"--shm-size={memory}" if memory else "--ipc=host"),
        *(gpus if container.gpus else ()),
        *(f"--device={device}" for device in container.devices),
        *(("--cap-add=IPC_LOCK",) if container.devices else ()),  # RDMA pins memory
        *(f"--ulimit={limit}" for limit in container.ulimits),
        *(f"--volume={mount}" for mount in mounts),
        *(f"--env={name}" for name in variables),
        "--entrypoint=",
    )


_PODMAN_GPUS = ("--device", "nvidia.com/gpu=all")


def _apptainer(
    container: Container, name: str, variables: Sequence[str], mounts: Sequence[str]
) -> tuple[str, ...]:
    binds = (word for mount in mounts for word in ("--bind", mount))
    return ("apptainer", "exec", *(("--nv",) if container.gpus else ()), *binds)


def pyxis_options(container: Container, *, variables: Collection[str] = ()) -> tuple[str, ...]:
    """The options of srun that start a step in a container.

    variables: those that win over the image's own.
    Source: NVIDIA/pyxis, README.
    """
    mounts, names = ",".join(container.mounts), ",".join(sorted(variables))
    return (
        f"--container-image={container.image}",
        *((f"--container-mounts={mounts}",) if mounts else ()),
        *((f"--container-env={names}",) if names else ()),
        *("--no-container-entrypoint", "--no-container-mount-home", "--container-writable"),
        *container.options,
    )


def container_of(deployment: Deployment, role: Role) -> Container | None:
    """The container of a role's engines, which sees the model at the same path as the host."""
    if deployment.container is None or deployment.engine == "sim":
        return None
    plan = deployment.roles[role]
    return replace(
        _with_model(deployment.container, deployment.model),
        image=plan.image or deployment.container.image,
        gpus=options(plan.args).get("--device") != "cpu",
    )


def _with_model(container: Container, model: str) -> Container:
    path = PurePosixPath(model)
    seen = (PurePosixPath(_inside(mount)) for mount in container.mounts)
    if not path.is_absolute() or any(path.is_relative_to(folder) for folder in seen):
        return container
    return replace(container, mounts=(*container.mounts, f"{model}:{model}:ro"))


def _inside(mount: str) -> str:
    """The path in the container of "HOST:CONTAINER:ro" or "HOST"."""
    parts = mount.split(":")
    return parts[1] if len(parts) > 1 else parts[0]


def read_container(section: Field) -> Container:
    """The container under `container:` of a file. Raises InvalidInput naming file and line."""
    keys = section.mapping(KEYS)
    for key in ("runtime", "image"):
        if key not in keys:
            hint = "container: {runtime: docker, image: lmsysorg/sglang:v0.5.23}"
            raise section.problem(f"has no {key}", hint=hint)
    runtime = keys["runtime"].text()
    if runtime not in RUNTIMES:
        raise keys["runtime"].problem(f"must be one of {', '.join(RUNTIMES)}, not {runtime!r}")
    for key in (key for key in _DAEMON_KEYS if key in keys):
        if runtime not in ("docker", "podman"):
            raise keys[key].problem(f"is for docker and podman; {runtime} uses the host's")
    usual = Container("docker", "")
    return Container(
        runtime=runtime,
        image=keys["image"].text(),
        python=keys["python"].text() if "python" in keys else usual.python,
        mounts=_texts(keys, "mounts", usual.mounts),
        devices=_texts(keys, "devices", usual.devices),
        shared_memory=keys["shared_memory"].text() if "shared_memory" in keys else None,
        ulimits=_texts(keys, "ulimits", usual.ulimits),
        options=keys["options"].args() if "options" in keys else (),
    )


def _texts(keys: Mapping[str, Field], key: str, usual: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(item.text() for item in keys[key].items()) if key in keys else usual


def container_document(container: Container) -> dict[str, object]:
    """The section that `read_container` reads back, without keys that have their default."""
    usual = Container(container.runtime, container.image)
    changed = {
        key: value for key in KEYS[2:] if (value := getattr(container, key)) != getattr(usual, key)
    }
    plain: dict[str, object] = {
        key: list(value) if isinstance(value, tuple) else value for key, value in changed.items()
    }
    if container.options:
        plain["options"] = shlex.join(container.options)
    return {"runtime": container.runtime, "image": container.image, **plain}
