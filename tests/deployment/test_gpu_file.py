"""A kind of GPU from a file of the user's."""

from pathlib import Path

import pytest

from pdctl.deployment.gpu_file import read_gpu_file
from pdctl.errors import InvalidInput
from pdctl.inspection.cluster import gpu_model, known_gpu_names, parse_gpus
from pdctl.units import GIB

WHOLE = """
name: my-gpu
memory_gib: 100
bandwidth_gb_per_s: 3350
bf16_tflops: 800
fp8_tflops: 1600
fp4_tflops: 3200
peer_gb_per_s: 450
pcie_gb_per_s: 64
source: a datasheet
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "gpu.yaml"
    path.write_text(text)
    return path


def test_every_figure_is_taken_in_its_unit(tmp_path: Path) -> None:
    model = read_gpu_file(written(tmp_path, WHOLE))
    assert (model.memory_bytes, model.bandwidth_bytes_per_s) == (100 * GIB, 3350e9)
    assert (model.bf16_flops, model.fp8_flops, model.fp4_flops) == (800e12, 1600e12, 3200e12)
    assert (model.peer_bytes_per_s, model.pcie_bytes_per_s) == (450e9, 64e9)
    assert model.source == "a datasheet"
    (note,) = model.guesses
    assert "kernels reach on my-gpu" in note


def test_a_name_and_a_bandwidth_are_enough_and_the_rest_is_said(tmp_path: Path) -> None:
    model = read_gpu_file(written(tmp_path, "name: my-gpu\nbandwidth_gb_per_s: 3350\n"))
    known = [found for name in known_gpu_names() if (found := gpu_model(name))]
    memory = [one.memory_bytes / one.bandwidth_bytes_per_s for one in known]
    assert min(memory) < model.memory_bytes / 3350e9 < max(memory)
    assert (model.fp8_flops, model.fp4_flops, model.peer_bytes_per_s) == (None, None, None)
    assert any("memory_gib, bf16_tflops, pcie_gb_per_s" in note for note in model.guesses)
    assert any("Assumed to be absent" in note for note in model.guesses)


def test_a_described_kind_is_named_like_a_known_one(tmp_path: Path) -> None:
    model = read_gpu_file(written(tmp_path, WHOLE))
    cluster = parse_gpus("2x8xMy GPU:rdma400", described=model)
    assert (cluster.gpu, cluster.num_gpus) == (model, 16)


@pytest.mark.parametrize("other", ["H100", "other"])
def test_a_file_that_the_gpus_do_not_name_is_refused(tmp_path: Path, other: str) -> None:
    model = read_gpu_file(written(tmp_path, WHOLE))
    with pytest.raises(InvalidInput, match=f"--gpus names {other}, and --gpu-file describes"):
        parse_gpus(f"8x{other}", described=model)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name: a\nbandwith_gb_per_s: 3\n", "line 2: 'bandwith_gb_per_s' is not a known key"),
        ("name: a:b\nbandwidth_gb_per_s: 3350\n", "line 1: name must have no colon, not 'a:b'"),
        ("name: a\n", "bandwidth_gb_per_s is missing"),
        ("bandwidth_gb_per_s: 3\n", "name is missing"),
        ("name: a\nbandwidth_gb_per_s: -3\n", "must be above zero, not '-3'"),
        ("name: a\nbandwidth_gb_per_s: fast\n", "must be a finite number"),
        ("name: a\nbandwidth_gb_per_s: 3.35\n", "must be from 10 to 100,000, not '3.35'"),
        ("name: a\nbandwidth_gb_per_s: 3350\nbf16_tflops: 1e30\n", "must be from 0 to 1,000,000"),
        ("", "is empty"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_gpu_file(written(tmp_path, text))
    assert sentence in str(refused.value)
