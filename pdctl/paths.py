"""Where the bundled data lies: inside an installed package, or beside it in a checkout."""

import os
from pathlib import Path

HOME_VARIABLE = "PDCTL_STATE_HOME"


def state_home() -> Path:
    """Where all deployments of this user are kept."""
    if chosen := os.environ.get(HOME_VARIABLE):
        return Path(chosen)
    from platformdirs import user_state_path

    return user_state_path("pdctl")


_PACKAGE = Path(__file__).resolve().parent


def profiles_dir() -> Path:
    """pdctl/_profiles in a wheel, profiles/ next to the package in a checkout."""
    bundled = _PACKAGE / "_profiles"
    return bundled if bundled.is_dir() else _PACKAGE.parent / "profiles"


def user_profiles_dir() -> Path:
    """Where this user's own calibrations lie; with the deployments where those were moved."""
    if chosen := os.environ.get("PDCTL_STATE_HOME"):
        return Path(chosen) / "profiles"
    from platformdirs import user_data_path

    return user_data_path("pdctl") / "profiles"


def user_config_dir() -> Path:
    """Where this user's settings lie; with the deployments where those were moved."""
    if chosen := os.environ.get(HOME_VARIABLE):
        return Path(chosen)
    from platformdirs import user_config_path

    return user_config_path("pdctl")


LAST_PLAN = "last-plan.yaml"


def last_plan_path() -> Path:
    """Where `plan` leaves its deployment for `up`."""

    return state_home() / LAST_PLAN
