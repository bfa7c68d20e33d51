"""The `pdctl` command: imports a verb only when it is named, and reports every error."""

import importlib
import os
import sys
import traceback
from errno import EDQUOT, ENOSPC
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from pdctl import __version__, is_compiled
from pdctl.commands.command_line.companions import check_companions
from pdctl.commands.command_line.verbs import VERBS
from pdctl.console import prepare_streams, print_failure
from pdctl.errors import (
    EnvironmentProblem,
    ExitCode,
    InvalidInput,
    PdctlError,
    did_you_mean,
    nearest,
)

COMPLETION_VARIABLE = "_PDCTL_COMPLETE"  # set by a shell that asks what could come next


class Verb(TyperCommand):
    """A verb whose --help shows its options in groups."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        from pdctl.commands.command_line.option_groups import grouped

        records = {one: one.get_help_record(ctx) for one in self.get_params(ctx)}
        shown = [one for one, record in records.items() if record is not None]
        arguments = [one for one in shown if one.param_type_name == "argument"]
        options = [one for one in shown if one.param_type_name != "argument"]
        groups = {"Arguments": arguments, **grouped(self.name or "", options)}
        for heading, members in groups.items():
            if members:
                with formatter.section(heading):
                    formatter.write_dl([records[one] for one in members])

    def invoke(self, ctx: Any) -> Any:
        """Run the verb. `~` in paths is expanded here: a shell leaves it in --trace=~/a.jsonl.

        Raises InvalidInput for an option that would have no effect.
        """
        check_companions(self.name or "", ctx)
        for one in self.params:
            value = ctx.params.get(one.name)
            if one.type.name == "path" and isinstance(value, str):
                ctx.params[one.name] = os.path.expanduser(value)
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            if sys.stderr.isatty():
                sys.stderr.write("\n")  # else the shell's prompt stands behind ^C
            raise


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
        one.command(cmd_name, cls=Verb)(getattr(module, cmd_name))
        command = typer.main.get_command(one)
        if COMPLETION_VARIABLE in os.environ:
            from pdctl.commands.command_line.completions import add_completions

            add_completions(cmd_name, command)
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            raise _no_verb(args[0])
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Complete verbs from their list: importing each one to describe it would take a second."""
        from pdctl.commands.command_line.completions import items

        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return items(verb for verb in VERBS if verb.startswith(incomplete))


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

        arguments = guided(ctx)
        if arguments is not None:
            code = app(args=arguments, prog_name="pdctl", standalone_mode=False)
            raise typer.Exit(code if isinstance(code, int) else ExitCode.DONE)


def main(argv: list[str] | None = None) -> None:
    """Run one command line and exit with its code. Errors of all verbs end here."""
    prepare_streams()
    arguments = sys.argv[1:] if argv is None else argv
    verb = next((a for a in arguments if not a.startswith("-")), "pdctl")
    try:
        code = app(args=arguments, prog_name="pdctl", standalone_mode=False)
        sys.stdout.flush()
    except PdctlError as problem:
        _fail(verb, problem, arguments)
    except (KeyboardInterrupt, EOFError, typer.Abort):
        sys.exit(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        _pipe_closed()
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # typer ends so with 1
            _pipe_closed()
        raise
    except Exception as problem:  # noqa: BLE001 - errors of all verbs end here
        if isinstance(problem, OSError) and problem.errno in (ENOSPC, EDQUOT):
            _output_lost(verb, problem)
        if not hasattr(problem, "format_message"):
            _confess(problem)
        _fail(verb, _usage(problem, verb), arguments)
    sys.exit(code if isinstance(code, int) else ExitCode.DONE)


def _pipe_closed() -> NoReturn:
    """Exit as programs do whose reader has gone, for example `head`: silently, as by SIGPIPE."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(ExitCode.PIPE_CLOSED)


def _output_lost(verb: str, problem: OSError) -> NoReturn:
    """End after a write that the disk had no room for; files of pdctl have errors of their own."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    said = EnvironmentProblem(
        f"The output cannot be written: {problem.strerror}.", hint="df -h", code="unwritable"
    )
    print_failure(verb, said, as_json=False)
    sys.exit(said.exit_code)


def verb_help(verb: str) -> str:
    """The text of `pdctl VERB --help`; of `pdctl --help` for ""."""
    group = typer.main.get_command(app)
    context = group.make_context("pdctl", [], resilient_parsing=True)
    if not verb:
        return context.get_help()
    command = group.get_command(context, verb)  # type: ignore[attr-defined]
    inner = command.make_context(verb, [], parent=context, resilient_parsing=True)
    return str(inner.get_help())


def _no_verb(typed: str) -> InvalidInput:
    near = nearest(typed, VERBS)
    hint = f"pdctl {near} --help" if near else "pdctl --help lists the verbs"
    return InvalidInput(f"There is no verb {typed!r}.{did_you_mean(near)}", hint=hint, code="usage")


def _confess(problem: Exception) -> NoReturn:
    """Show the traceback of a bug in pdctl and ask for a report."""
    traceback.print_exception(problem)
    sys.stderr.write(f"error: a bug in pdctl {__version__}. Please report the lines above.\n")
    sys.exit(ExitCode.BUG)


def _usage(problem: Any, verb: str) -> InvalidInput:
    from pdctl.commands.command_line.usage import usage_error

    return usage_error(problem, f"pdctl {verb}" if verb in VERBS else "pdctl")


def _fail(verb: str, problem: PdctlError, arguments: list[str]) -> None:
    print_failure(verb, problem, as_json="--json" in arguments)
    sys.exit(problem.exit_code)
