"""Where install.sh put real SGLang and its model."""

import os
from pathlib import Path

HOME = Path(os.environ.get("PDCTL_REAL_ENGINE", "~/.cache/pdctl/real-engine")).expanduser()
PYTHON, MODEL = HOME / "venv" / "bin" / "python", HOME / "model"


def missing() -> str | None:
    """Why tests with real SGLang cannot run; None when they can."""
    if PYTHON.exists() and (MODEL / "config.json").exists():
        return None
    return f"no SGLang in {HOME}: run tests/real_engine/install.sh"
