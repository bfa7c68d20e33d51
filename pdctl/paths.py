"""Paths of bundled data and of the user's own files."""

import os
from pathlib import Path

from pdctl.errors import did_you_mean, nearest

HOME_VARIABLE = "PDCTL_STATE_HOME"
LAST_PLAN = "last-plan.yaml"
TARGETS_FILE = "prometheus-targets.json"  # beside the state of each deployment
_PACKAGE = Path(__file__).resolve().parent


def state_home() -> Path:
    """Directory with the state of all of this user's deployments."""
    if home := os.environ.get(HOME_VARIABLE):
        return Path(home)
    from platformdirs import user_state_path  # imported late: most runs do not need it

    return user_state_path("pdctl")


def working_directory() -> str:
    """The folder in which a command was given; the root if that was deleted meanwhile."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "/"


def profiles_dir() -> Path:
    """Bundled profiles: pdctl/_profiles in a wheel, profiles/ beside the package in a checkout."""
    bundled = _PACKAGE / "_profiles"
    return bundled if bundled.is_dir() else _PACKAGE.parent / "profiles"


def docs_dir() -> Path:
    """Pages of `pdctl help`: pdctl/_docs in a wheel, docs/ beside the package in a checkout."""
    bundled = _PACKAGE / "_docs"
    return bundled if bundled.is_dir() else _PACKAGE.parent / "docs"


def user_profiles_dir() -> Path:
    """Directory with this user's calibrations, inside $PDCTL_STATE_HOME if that is set."""
    if home := os.environ.get(HOME_VARIABLE):
        return Path(home) / "profiles"
    from platformdirs import user_data_path

    return user_data_path("pdctl") / "profiles"


def user_config_dir() -> Path:
    """The folder of this user's settings; beside the deployments where those were moved."""
    if chosen := os.environ.get(HOME_VARIABLE):
        return Path(chosen)
    from platformdirs import user_config_path

    return user_config_path("pdctl")


def last_plan_path() -> Path:
    """The file in which `plan` keeps its deployment for `up`."""
    return state_home() / LAST_PLAN


def near_path(path: Path) -> str:
    """A sentence that says what there is instead of a missing path; "" where nothing is like it."""
    folder = path.parent
    if path.exists():
        return ""
    if not folder.is_dir():
        return f" There is no folder {folder}."
    try:
        near = nearest(path.name, sorted(entry.name for entry in folder.iterdir()))
    except OSError:
        return ""
    return did_you_mean(str(folder / near)) if near else ""
