"""The weights that a checkpoint's own index counts, against the shape that was read."""

import json
from pathlib import Path

import pytest

from pdctl.inspection.llm import read_llm
from pdctl.inspection.llm_size import weight_bytes
from pdctl.inspection.weight_index import INDEX

CONFIG = Path(__file__).parents[2] / "profiles" / "models" / "qwen3-8b.json"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(CONFIG.read_text())
    return tmp_path


def _index(folder: Path, total_size: float) -> None:
    said = {"metadata": {"total_size": round(total_size)}, "weight_map": {"lm_head.weight": "a"}}
    (folder / INDEX).write_text(json.dumps(said))


@pytest.mark.parametrize("share", [1.0, 1.08])
def test_an_index_that_agrees_says_nothing(checkpoint: Path, share: float) -> None:
    """A layer of multi-token prediction is in the weights and not in the shape."""
    _index(checkpoint, weight_bytes(read_llm(str(checkpoint))) * share)
    assert not read_llm(str(checkpoint)).guesses


@pytest.mark.parametrize("share", [0.5, 0.9, 1.3])
def test_an_index_that_differs_lowers_confidence(checkpoint: Path, share: float) -> None:
    _index(checkpoint, weight_bytes(read_llm(str(checkpoint))) * share)
    (note,) = read_llm(str(checkpoint)).guesses
    assert note.startswith(f"{INDEX} counts {16.38 * share:.1f} GB")
    assert "come to 16.4 GB" in note


def test_a_broken_index_or_none_is_no_reason_for_doubt(checkpoint: Path) -> None:
    assert not read_llm(str(checkpoint)).guesses
    (checkpoint / INDEX).write_bytes(b'\xff{"metadata": {"total_size": -3')
    assert not read_llm(str(checkpoint)).guesses


def test_missing_files_of_weights_are_said(checkpoint: Path) -> None:
    for number in (1, 3):
        (checkpoint / f"model-{number:05d}-of-00003.safetensors").write_bytes(b"")
    llm = read_llm(str(checkpoint))
    assert any("1 of 3 weight files are missing" in one for one in llm.assumptions)
    (checkpoint / "model-00002-of-00003.safetensors").write_bytes(b"")
    assert not any("missing" in one for one in read_llm(str(checkpoint)).assumptions)
