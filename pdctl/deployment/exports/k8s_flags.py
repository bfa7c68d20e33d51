"""The flags of pods in a ConfigMap that a person edits; pods read them when they start."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CONFIG = "config"
CONFIG_FOLDER = "/etc/pdctl"
CONFIG_MOUNT = {"name": CONFIG, "mountPath": CONFIG_FOLDER, "readOnly": True}
CONFIG_ANNOTATION = "pdctl/flags"
# one flag a line with its value, as a person edits it; a value may hold blanks and quotes
READ_FLAGS = """\
while IFS= read -r line || [ -n "$line" ]; do
  case "$line" in
    ''|'#'*) ;;
    *' '*) set -- "$@" "${line%% *}" "${line#* }" ;;
    *) set -- "$@" "$line" ;;
  esac
done < "$0"
exec "$@"
"""
# what other lines of the manifests refer to, besides flags with an address of a pod
TIED = frozenset(
    (
        *("--host", "--port", "--nccl-port", "--disaggregation-bootstrap-port"),
        *("--disaggregation-mode", "--tp-size", "--pp-size", "--pd-disaggregation"),
        *("--prometheus-host", "--prometheus-port", "--health-check-endpoint"),
    )
)


@dataclass(frozen=True)
class Command:
    """A command line in two parts. flags: lines of the ConfigMap that a person may edit."""

    fixed: tuple[str, ...]
    flags: tuple[str, ...]

    @classmethod
    def of(cls, argv: Sequence[str]) -> "Command":
        program, groups = argv[:3], _flag_groups(argv[3:])
        free = [group for group in groups if _can_be_edited(group)]
        fixed = (word for group in groups if group not in free for word in group)
        return cls((*program, *fixed), tuple(line for group in free for line in _lines(group)))

    def container(self, role: str) -> dict[str, Any]:
        """The command of a container that reads these flags when it starts."""
        return {
            "command": ["sh", "-c", READ_FLAGS, f"{CONFIG_FOLDER}/{role}.flags"],
            "args": list(self.fixed),
        }

    @property
    def annotation(self) -> dict[str, str]:
        """Changes with the flags, so that `kubectl apply` replaces the pods."""
        text = "\n".join(self.flags)
        return {CONFIG_ANNOTATION: hashlib.sha256(text.encode()).hexdigest()[:12]}


def _flag_groups(words: Sequence[str]) -> list[tuple[str, ...]]:
    """Flags, each with its values."""
    groups: list[list[str]] = []
    for word in words:
        if word.startswith("--") or not groups:
            groups.append([])
        groups[-1].append(word)
    return [tuple(group) for group in groups]


def _can_be_edited(group: tuple[str, ...]) -> bool:
    flag, *values = group
    is_tied = flag in TIED or "$(" in "".join(group)
    # in a line, the first blank ends the flag, and further values have lines of their own
    is_line = "\n" not in "".join(group) and " " not in flag and "" not in values
    return flag.startswith("--") and not is_tied and is_line and not _has_blank(values)


def _has_blank(values: Sequence[str]) -> bool:
    return len(values) > 1 and any(" " in value for value in values)


def _lines(group: tuple[str, ...]) -> tuple[str, ...]:
    return (" ".join(group),) if len(group) == 2 else group


def flag_files(commands: Mapping[str, Command]) -> dict[str, str]:
    """The files of the ConfigMap, by name."""
    return {
        f"{role}.flags": "".join(f"{line}\n" for line in command.flags)
        for role, command in commands.items()
    }
