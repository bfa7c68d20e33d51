"""Which GPUs of this machine a deployment may take."""

from pathlib import Path

import pytest

from pdctl.engines import prepare, state
from pdctl.inspection.records import Gpu

GPUS = tuple(Gpu(i, "NVIDIA H200", f"GPU-{i}", 1 << 37, 0) for i in range(4))


@pytest.mark.parametrize(
    ("visible", "indices"), [(None, [0, 1, 2, 3]), ("2,0", [2, 0]), ("GPU-3", [3]), ("", [])]
)
def test_only_gpus_that_cuda_visible_devices_leaves_are_taken(
    visible: str | None, indices: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(state.HOME_VARIABLE, str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(prepare, "query_gpus", lambda: GPUS)
    assert [gpu.index for gpu in prepare._gpus_here()] == indices
