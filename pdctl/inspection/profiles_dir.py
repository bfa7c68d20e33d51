"""Where the bundled data lies: inside an installed package, or beside it in a checkout."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent


def profiles_dir() -> Path:
    """pdctl/_profiles in a wheel, profiles/ next to the package in a checkout."""
    bundled = _PACKAGE / "_profiles"
    return bundled if bundled.is_dir() else _PACKAGE.parent / "profiles"
