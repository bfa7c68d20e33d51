"""What `data` holds in the JSON of every verb, as types that `pdctl schema` turns into a schema."""

from typing import Any, Literal, TypedDict

from pdctl.doctor.records import Check
from pdctl.engines.records import DeploymentState
from pdctl.inspection.records import Llm  # noqa: F401
from pdctl.measurement.arms import ArmResult

VERBS_WITH_DATA = ()
