"""Five kinds of error, and their exit codes.

An expected answer ("does not fit", "no layout meets the SLO") is a value, not an error.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit code of a command."""

    DONE = 0
    BUG = 1
    BAD_INPUT = 2
    ANSWER_IS_NO = 3
    ENVIRONMENT = 4
    ENGINE_FAILED = 5
    NOT_READY = 6
    CONFLICT = 7
    INTERRUPTED = 130


class PdctlError(Exception):
    """One sentence with the offending value, and a hint that is a command or a flag.

    code: stable name for programs (`--json`), lower case with underscores.
    details: further lines to print, for example the tail of an engine's log.
    """

    exit_code = ExitCode.BUG

    def __init__(
        self, message: str, *, hint: str = "", code: str = "", details: tuple[str, ...] = ()
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code or type(self).__name__
        self.details = details


class InvalidInput(PdctlError):
    """A wrong flag, file or value."""

    exit_code = ExitCode.BAD_INPUT


class EnvironmentProblem(PdctlError):
    """This machine lacks something: a GPU, SGLang, a free port, a KV transfer backend."""

    exit_code = ExitCode.ENVIRONMENT


class EngineFailed(PdctlError):
    """An engine or the router exited or misbehaved."""

    exit_code = ExitCode.ENGINE_FAILED


class NotReady(PdctlError):
    """A process was not ready in time; pdctl has stopped everything it started."""

    exit_code = ExitCode.NOT_READY


class StateConflict(PdctlError):
    """A deployment is already running, or there is none to act on."""

    exit_code = ExitCode.CONFLICT
