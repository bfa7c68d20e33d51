"""What the doctor found: one record per check."""

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["pass", "warn", "fail", "unknown"]


@dataclass(frozen=True)
class Check:
    """One check. text: one sentence with the value. fix: a command or a flag; "" on a pass.

    source: where the trouble is known from, as an issue of SGLang or a kernel document.
    deployment: whose; "": this machine's.
    """

    id: str
    outcome: Outcome
    text: str
    fix: str = ""
    source: str = ""
    deployment: str = ""
