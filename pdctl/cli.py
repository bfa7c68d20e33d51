"""The `pdctl` command: imports a verb only when it is named, and reports every error."""

import importlib
import sys
import traceback
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from pdctl import __version__, is_compiled
from pdctl.console import print_failure
from pdctl.errors import ExitCode, InvalidInput, PdctlError

# verb -> description for `pdctl --help`; pdctl.commands.VERB has a function of that name
VERBS = {
    "plan": "Decide whether to split prefill and decode, and into how many engines.",
    "up": "Start engines and router, and stay until Ctrl-C.",
    "status": "Show every engine's queues live, and suggest changes.",
    "scale": "Add, remove and move engines under load.",
    "down": "Stop a deployment.",
    "logs": "Show logs of engines, or the supervisor's decisions.",
    "ls": "List the deployments that run on this machine.",
    "rehearse": "Play a plan on simulated engines behind the real router.",
    "render": "Print a deployment for a shell, Slurm, Kubernetes or Miles.",
    "doctor": "Check this machine and its deployments.",
    "measure": "Run colocated and split engines side by side; show which wins.",
    "calibrate": "Measure an engine's step times; plan then uses them.",
}


class LazyVerbs(TyperGroup):
    """A group that imports a verb's module when the verb is named."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"pdctl.commands.{cmd_name}")
        one = typer.Typer(add_completion=False, rich_markup_mode=None)
        one.command(cmd_name)(getattr(module, cmd_name))
        return typer.main.get_command(one)


app = typer.Typer(
    cls=LazyVerbs,
    help="Plan, launch and watch SGLang with prefill and decode together or split.",
    no_args_is_help=False,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def root(
    ctx: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    """Plan, launch and watch SGLang prefill/decode disaggregation."""
    if version:
        typer.echo(f"pdctl {__version__}{', compiled simulator' if is_compiled() else ''}")
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        from pdctl.commands.guided import guided

        verb = guided(ctx)
        if verb is not None:
            app(args=[verb], prog_name="pdctl", standalone_mode=False)


def main(argv: list[str] | None = None) -> None:
    """Run one command line and exit with its code. Errors of all verbs end here."""
    arguments = sys.argv[1:] if argv is None else argv
    verb = next((a for a in arguments if not a.startswith("-")), "pdctl")
    try:
        code = app(args=arguments, prog_name="pdctl", standalone_mode=False)
    except PdctlError as problem:
        _fail(verb, problem, arguments)
    except (KeyboardInterrupt, EOFError, typer.Abort):
        sys.exit(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(ExitCode.DONE)
    except Exception as problem:  # noqa: BLE001 - errors of all verbs end here
        if not hasattr(problem, "format_message"):
            _confess(problem)
        _fail(verb, _usage(problem, verb), arguments)
    sys.exit(code if isinstance(code, int) else ExitCode.DONE)


def _confess(problem: Exception) -> NoReturn:
    """Show the traceback of a bug in pdctl and ask for a report."""
    traceback.print_exception(problem)
    sys.stderr.write(f"error: a bug in pdctl {__version__}. Please report the lines above.\n")
    sys.exit(ExitCode.BUG)


def _usage(problem: Any, verb: str) -> InvalidInput:
    command = f"pdctl {verb}" if verb in VERBS else "pdctl"
    return InvalidInput(problem.format_message(), hint=f"{command} --help", code="usage")


def _fail(verb: str, problem: PdctlError, arguments: list[str]) -> None:
    print_failure(verb, problem, as_json="--json" in arguments)
    sys.exit(problem.exit_code)
