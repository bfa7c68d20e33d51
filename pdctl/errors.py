"""Five kinds of error, their exit codes, and the word that was meant.

An expected answer ("does not fit", "no layout meets the SLO") is a value, not an error.
"""

from collections.abc import Iterable
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
    PIPE_CLOSED = 141  # as a shell reports a program that SIGPIPE ended


# code -> what it means. Every `error.code` of --json is one of these words; docs/exit-codes.md has
# the same list, and a test compares them with every place that raises an error.
CODES = {
    "already_running": "A deployment of that name is running.",
    "ambiguous_flag": "A shortened SGLang flag stands for more than one flag.",
    "ambiguous_name": "Several deployments are running and none was named.",
    "another_profile": "The profile belongs to another kind of engine.",
    "api_key_exposed": "Other users of the machine can read the API key.",
    "bad_api_key": "The file with the API key is unreadable or empty.",
    "bad_config_json": "A model's config.json cannot be used.",
    "bad_flag_value": "SGLang would refuse the value of a flag.",
    "bad_host": "The host to listen on cannot be resolved or is not an address of this machine.",
    "bad_name": "The name of a deployment has characters that are not allowed.",
    "bad_profile": "A profile file cannot be read.",
    "bad_state": "The state of a deployment cannot be read.",
    "bad_state_dir": "The state directory belongs to another user or is open to others.",
    "bad_value": "A flag, a file or a value is wrong.",
    "busy": "The engine is serving other requests.",
    "cannot_serve": "The deployment could not serve with these numbers of engines.",
    "conflict": "The command does not apply to the present state.",
    "conflicting_flag": "pdctl sets that SGLang flag itself.",
    "counters_lost": "An engine restarted or lacks a counter while pdctl watched it.",
    "disk_full": "A node's disk has no room for a copy of the model.",
    "engine_failed": "An engine exited or gave a wrong answer.",
    "environment": "This machine lacks something that the command needs.",
    "file_exists": "The file to write exists already.",
    "idle": "The engines did nothing that could be measured.",
    "job_ended": "The Slurm job ended before the deployment served.",
    "job_refused": "Slurm refuses the job.",
    "memory_kept": "A running engine keeps the GPU memory that a new one needs.",
    "no_address": "A node has no address that the other nodes reach.",
    "no_answer": "Nothing answers at that URL.",
    "no_config_json": "The model's folder has no config.json.",
    "no_counters": "The engine does not report the counters that are needed.",
    "no_gpu": "This machine has no usable GPU.",
    "no_image": "A container image is not on a node, or does not start there.",
    "no_job": "There is no running Slurm job to start engines in.",
    "no_kv_backend": "No KV transfer backend is installed.",
    "no_launcher": "This pdctl has no launcher of that name.",
    "no_metrics": "The engine has no /metrics page.",
    "no_model": "No model was given.",
    "no_model_there": "A node lacks the model.",
    "no_plan": "There is neither a pd.yaml nor an earlier plan.",
    "no_pyxis": "Pyxis needs a Slurm job, and this is not one.",
    "no_ray": "Ray is not installed here, or this machine does not belong to a Ray cluster.",
    "no_rdma": "An RDMA card that engines are to use is not there or not active.",
    "no_sglang": "SGLang is not installed in the chosen Python.",
    "no_slurm": "Slurm's commands are not installed here.",
    "no_request_times": "The logs have no line per request.",
    "no_steps": "A log has no lines with step times.",
    "no_supervisor": "The deployment has lost its supervisor.",
    "no_weights": "The model's weights are not on this machine.",
    "not_enough_gpus": "Fewer GPUs are free than the engines need.",
    "not_identified": "The measurements determine no coefficient.",
    "not_ready": "An engine was not ready in time.",
    "not_running": "No such deployment is running.",
    "not_sglang": "The server at that URL is not SGLang.",
    "not_shared": "The state directory is not on a filesystem that all nodes share.",
    "nothing_to_undo": "The deployment was not rescaled since it started.",
    "other_host": "The deployment's supervisor runs on another host.",
    "port_in_use": "Another process listens on the port.",
    "profile_for_another_gpu": "The profile was measured on another kind of GPU.",
    "profile_unwritable": "A profile cannot be written.",
    "python_broken": "The chosen Python does not run.",
    "ray_silent": "The Ray cluster does not answer in time.",
    "router_failed": "The router exited or gave a wrong answer.",
    "slurm_failed": "A Slurm command failed.",
    "slurm_silent": "Slurm does not answer in time.",
    "state_dir_unwritable": "The state directory cannot be written.",
    "stopped": "The deployment was stopped while the command waited for it.",
    "stopping": "The deployment is stopping or has failed.",
    "supervisor_died": "The supervisor of the deployment exited.",
    "too_little_seen": "Too few requests finished to describe the traffic.",
    "two_time_units": "The times of a trace make sense in two units.",
    "unequal_clocks": "The clocks of nodes differ too much.",
    "unequal_model": "Nodes have different files of a model.",
    "unequal_sglang": "Nodes have different SGLang versions.",
    "unequal_split": "An engine's GPUs cannot be shared equally by its nodes.",
    "unknown_gpu": "pdctl has no data for that GPU.",
    "unknown_model": "The model was not found.",
    "unknown_process": "The deployment has no process of that name.",
    "unknown_profile": "There is no profile of that name.",
    "unknown_request": "The logs have no request of that id.",
    "unreachable": "A node does not reach another one over the network.",
    "unwritable": "A file, or the output, cannot be written.",
    "usage": "The command line cannot be parsed.",
}


class PdctlError(Exception):
    """One sentence with the offending value, and a hint that is a command or a flag.

    code: stable name for programs (`--json`), a word of CODES; by default that of the kind.
    details: further lines to print, for example the tail of an engine's log.
    """

    exit_code = ExitCode.BUG
    usual_code = ""

    def __init__(
        self, message: str, *, hint: str = "", code: str = "", details: tuple[str, ...] = ()
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code or self.usual_code
        self.details = details


class InvalidInput(PdctlError):
    """A wrong flag, file or value."""

    exit_code = ExitCode.BAD_INPUT
    usual_code = "bad_value"


class EnvironmentProblem(PdctlError):
    """This machine lacks something: a GPU, SGLang, a free port, a KV transfer backend."""

    exit_code = ExitCode.ENVIRONMENT
    usual_code = "environment"


class EngineFailed(PdctlError):
    """An engine or the router exited or misbehaved."""

    exit_code = ExitCode.ENGINE_FAILED
    usual_code = "engine_failed"


class NotReady(PdctlError):
    """A process was not ready in time; pdctl has stopped everything it started."""

    exit_code = ExitCode.NOT_READY
    usual_code = "not_ready"


class StateConflict(PdctlError):
    """A deployment is already running, or there is none to act on."""

    exit_code = ExitCode.CONFLICT
    usual_code = "conflict"


LEAST_TYPED = 3  # letters from which the beginning of a word tells which is meant


def nearest(typed: str, known: Iterable[str]) -> str:
    """The known word that begins with what was typed or is most like it; "" where none is."""
    from difflib import get_close_matches  # only for mistakes

    words = list(known)
    longer = [word for word in words if len(typed) >= LEAST_TYPED and word.startswith(typed)]
    return next(iter(longer or get_close_matches(typed, words, n=1)), "")


def did_you_mean(near: str) -> str:
    """The question that follows an unknown word; "" where no word is near."""
    return f" Did you mean {near}?" if near else ""
