"""Builds the simulator's modules with mypyc into a wheel; without a C compiler they stay Python."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Compiled(BuildHookInterface):  # type: ignore[type-arg]
    """Adds what mypyc makes of `modules` (of pyproject.toml) beside their sources.

    PDCTL_PLAIN_PYTHON in the environment: a wheel of Python alone, for any platform.
    """

    def dependencies(self) -> list[str]:
        """What the build needs beside hatchling."""
        return [] if os.environ.get("PDCTL_PLAIN_PYTHON") else ["mypy>=1.13", "setuptools>=70"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before files are collected. version: "editable" is left as it is written."""
        if version == "editable" or os.environ.get("PDCTL_PLAIN_PYTHON"):
            return
        # files are collected after this returns; finalize takes them away
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        shutil.copytree(Path(self.root, "pdctl"), folder / "pdctl")
        made = subprocess.run(
            [sys.executable, "-m", "mypyc", "--config-file=", *self.config["modules"]],
            cwd=folder,
            capture_output=True,
            text=True,
        )
        if made.returncode:
            self.app.display_warning(f"{(made.stdout + made.stderr)[-2000:]}\nnot compiled: slower")
            return
        libraries = [*folder.glob("*.so"), *folder.glob("pdctl/**/*.so")]
        build_data["force_include"].update({str(p): str(p.relative_to(folder)) for p in libraries})
        build_data.update(pure_python=False, infer_tag=True)

    def finalize(self, *_: object) -> None:
        """Called when the wheel is written."""
        folder = getattr(self, "_folder", None)
        if folder is not None:
            folder.cleanup()
