"""Engines that share a GPU start together and are measured one after the other."""

import time
from pathlib import Path


class Turns:
    """The turns of tracks, each a process of its own, which leave files in one folder."""

    def __init__(self, folder: Path, track: int, num_tracks: int) -> None:
        self._folder, self._track, self._num = folder, track, num_tracks

    def started(self) -> None:
        """The engine of this track serves, or will never."""
        self._file("started", self._track).touch()

    def ended(self) -> None:
        """The engine of this track is gone."""
        self.started()
        self._file("ended", self._track).touch()

    def wait(self, until: float) -> None:
        """Wait until every engine has started and the earlier ones are gone, at most `until`."""
        while not self.is_next() and time.time() < until:
            time.sleep(0.2)

    def is_next(self) -> bool:
        """True once every engine has started and those of earlier tracks are gone."""
        all_started = all(self._file("started", n).exists() for n in range(self._num))
        return all_started and all(self._file("ended", n).exists() for n in range(self._track))

    def _file(self, what: str, track: int) -> Path:
        return self._folder / f"{what}-{track}"
