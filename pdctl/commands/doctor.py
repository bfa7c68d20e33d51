"""`pdctl doctor`: what is wrong here, and what to do about it."""

from pathlib import Path

import typer


def doctor(
    name: str | None = typer.Argument(None, help="Deployment; all that run if left out."),
    quick: bool = typer.Option(False, "--quick", help="Leave out what imports libraries."),
    router: str = typer.Option("", "--router", help="URL of a router that pdctl did not start."),
    metrics_port: int | None = typer.Option(
        None, "--metrics-port", min=1, max=65535, help="With --router: its Prometheus port."
    ),
    python: str | None = typer.Option(None, "--python", help="The Python that has SGLang."),
    api_key_file: Path | None = typer.Option(
        None, "--api-key-file", help="Holds the API key; else PDCTL_API_KEY."
    ),
    as_json: bool = typer.Option(False, "--json", help="One JSON object."),
) -> None:
    """Check this machine and what runs on it; explain a start that failed.

    Exit code: 0 nothing fails, 4 this machine does, 5 a deployment does.

    \b
    Examples:
      pdctl doctor
      pdctl doctor chat --json
    """
    import dataclasses

    from pdctl.console import show
    from pdctl.doctor.diagnose import diagnose
    from pdctl.engines.clients.api_key import use_key_file
    from pdctl.errors import ExitCode, InvalidInput
    from pdctl.tables.deployments import doctor_view

    if router and name:
        raise InvalidInput("--router excludes a NAME.", hint=f"pdctl doctor --router {router}")
    if metrics_port and not router:
        raise InvalidInput("--metrics-port needs --router.", hint="pdctl doctor --router URL")
    use_key_file(api_key_file)
    checks = diagnose(name, router=router, metrics_port=metrics_port, python=python, quick=quick)
    data = {"checks": [dataclasses.asdict(check) for check in checks]}
    show("doctor", data, as_json=as_json, render=lambda: doctor_view(checks))
    failed = [check for check in checks if check.outcome == "fail"]
    if failed:
        of_deployment = any(check.deployment for check in failed)
        raise typer.Exit(ExitCode.ENGINE_FAILED if of_deployment else ExitCode.ENVIRONMENT)
