"""`pdctl doctor`: find faults of this machine and its deployments, and say how to fix them."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pdctl.console import show
from pdctl.errors import ExitCode, InvalidInput

if TYPE_CHECKING:
    from pdctl.doctor.records import Check


def doctor(
    name: str | None = typer.Argument(
        None, help="Deployment, or a router's URL. Default: all that run."
    ),
    quick: bool = typer.Option(False, "--quick", help="Skip checks that import libraries."),
    router: str = typer.Option("", "--router", help="URL of a router that pdctl did not start."),
    metrics_port: int | None = typer.Option(
        None, "--metrics-port", min=1, max=65535, help="With --router: its Prometheus port."
    ),
    python: str | None = typer.Option(None, "--python", help="Python interpreter that has SGLang."),
    on: str = typer.Option(
        "local", "--on", help="Machines: local, slurm (this job's) or ray (this cluster's)."
    ),
    kv_bandwidth: bool = typer.Option(
        False,
        "--kv-bandwidth",
        help="With --on slurm or ray: measure how fast nodes send to each other over TCP.",
    ),
    output: Path | None = typer.Option(
        None,
        "-o",
        "--output",
        help="With --on slurm or ray: write the nodes' GPUs and RDMA cards to a new cluster.yaml.",
    ),
    api_key_file: Path | None = typer.Option(
        None, "--api-key-file", help="File with the API key. Default: $PDCTL_API_KEY."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Check this machine and its deployments, or a whole cluster; explain a start that failed.

    Exit code: 0 if nothing fails, 4 if this machine has a fault, 5 if a deployment has one.

    \b
    Examples:
      pdctl doctor
      pdctl doctor chat --json
      pdctl doctor --on slurm
    """
    from pdctl.doctor.diagnose import diagnose
    from pdctl.engines.clients.api_key import use_key_file
    from pdctl.tables.deployments import doctor_view
    from pdctl.tables.tabs import doctor_lines

    if not router and name and ":" in name:  # no name of a deployment has one
        router, name = name, None
    if router and name:
        raise InvalidInput(
            "Give either NAME or --router, not both.", hint=f"pdctl doctor --router {router}"
        )
    if metrics_port and not router:
        raise InvalidInput("--metrics-port needs --router.", hint="pdctl doctor --router URL")
    if on == "local" and (kv_bandwidth or output):
        flag = "--kv-bandwidth" if kv_bandwidth else f"-o {output}"
        raise InvalidInput(
            f"{flag} needs several nodes, but --on local is one machine.",
            hint=f"pdctl doctor --on slurm {flag}",
        )
    if output is not None:
        _write_cluster_file(output, on)
        return
    use_key_file(api_key_file)
    if on != "local":
        checks = _of_nodes(on, python=python, quick=quick, kv_bandwidth=kv_bandwidth)
    else:
        checks = diagnose(
            name, router=router, metrics_port=metrics_port, python=python, quick=quick
        )
    data = {"checks": [dataclasses.asdict(check) for check in checks]}
    show(
        "doctor",
        data,
        as_json=as_json,
        render=lambda: doctor_view(checks),
        lines=lambda: doctor_lines(checks),
    )
    failed = [check for check in checks if check.outcome == "fail"]
    if failed:
        has_deployment = any(check.deployment for check in failed)
        raise typer.Exit(ExitCode.ENGINE_FAILED if has_deployment else ExitCode.ENVIRONMENT)


def _of_nodes(
    on: str, *, python: str | None, quick: bool, kv_bandwidth: bool
) -> "tuple[Check, ...]":
    from pdctl.deployment.cluster_file import cluster_here
    from pdctl.doctor.nodes import check_nodes
    from pdctl.engines.launchers.registry import launcher_named
    from pdctl.engines.lifecycle.place import present_nodes

    cluster = cluster_here()
    launcher = launcher_named(present_nodes(on))
    return check_nodes(
        launcher,
        cluster,
        python=python or cluster.python,
        quick=quick,
        kv_bandwidth=kv_bandwidth,
    )


def _write_cluster_file(output: Path, on: str) -> None:
    from pdctl.commands.command_line.overwrite import write_output
    from pdctl.doctor.nodes import cluster_file_of
    from pdctl.engines.launchers.registry import launcher_named
    from pdctl.engines.lifecycle.place import present_nodes

    if output.exists():
        raise InvalidInput(
            f"{output} exists and was left as it is.",
            hint=f"-o another file than {output.name}, then copy what differs",
            code="file_exists",
        )
    write_output(output, cluster_file_of(launcher_named(present_nodes(on))), flag="-o")
    typer.echo(f"wrote {output}")
