"""Records that all checks of the doctor share."""

from dataclasses import dataclass
from typing import Literal

CheckOutcome = Literal["pass", "warn", "fail", "unknown"]


@dataclass(frozen=True)
class Check:
    """One check. text: one sentence with the value. fix: a command or a flag; "" on a pass.

    source: where this fault is documented, for example an SGLang issue. deployment, node: what the
    check is about; "" for both: this machine.
    """

    id: str
    outcome: CheckOutcome
    text: str
    fix: str = ""
    source: str = ""
    deployment: str = ""
    node: str = ""

    @property
    def subject(self) -> str:
        """The deployment or the node that it is about; "": this machine."""
        return self.deployment or self.node
