"""Options that describe engines: the same words in `plan` as in `up`."""

import shlex
from dataclasses import dataclass

from pdctl.errors import InvalidInput
from pdctl.perf_model.records import Role

ROLES: tuple[Role, ...] = ("colocated", "prefill", "decode")
SIZES = ("tp", "pp", "dp", "ep")


@dataclass(frozen=True)
class EngineOptions:
    """Sizes, SGLang's flags and the router's policy, as typed. None: not given."""

    tp: int | None = None
    pp: int | None = None
    dp: int | None = None
    ep: int | None = None
    prefill_tp: int | None = None
    prefill_pp: int | None = None
    prefill_dp: int | None = None
    prefill_ep: int | None = None
    decode_tp: int | None = None
    decode_pp: int | None = None
    decode_dp: int | None = None
    decode_ep: int | None = None
    args: str | None = None
    prefill_args: str | None = None
    decode_args: str | None = None
    policy: str | None = None

    def sizes(self, role: Role) -> dict[str, int]:
        """The sizes given for engines of a role: --prefill-tp comes before --tp.

        Raises InvalidInput for a size below 1.
        """
        given = ((size, self._size(role, size)) for size in SIZES)
        return {size: value for size, value in given if value is not None}

    def own_sizes(self, role: Role) -> tuple[str, ...]:
        """The sizes given for this role alone."""
        return tuple(size for size in SIZES if getattr(self, f"{role}_{size}", None) is not None)

    def _size(self, role: Role, size: str) -> int | None:
        own: int | None = getattr(self, f"{role}_{size}", None)
        value: int | None = getattr(self, size) if own is None else own
        if value is not None and value < 1:
            flag = f"--{size}" if own is None else f"--{role}-{size}"
            raise InvalidInput(f"{flag} must be at least 1, not {value}.", hint=f"{flag} 1")
        return value


def words(text: str | None, flag: str) -> tuple[str, ...]:
    """The words of --args '...', split as a shell splits them. Raises InvalidInput if it cannot."""
    try:
        return tuple(shlex.split(text or ""))
    except ValueError as problem:
        raise InvalidInput(
            f"Cannot split {flag} {text!r} into words: {problem}.",
            hint=f"{flag} '--mem-fraction-static 0.8'",
        ) from problem
