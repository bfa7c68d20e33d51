import pytest

from pdctl.errors import InvalidInput
from pdctl.inspection.gpu_models import gpu_model, known_gpu_names, require_gpu_model


@pytest.mark.parametrize(
    ("reported", "kind"),
    [
        ("NVIDIA H200", "H200"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA H100 NVL", "H100-NVL"),
        ("NVIDIA H800", "H800"),
        ("NVIDIA H20", "H20"),
        ("NVIDIA A100-SXM4-40GB", "A100-40GB"),
        ("A100-SXM4-40GB", "A100-40GB"),  # drivers before 470 leave the brand out
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA A100 80GB PCIe", "A100-80GB"),
        ("NVIDIA A800-SXM4-80GB", "A800"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA GB200", "GB200"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA GeForce RTX 4090", "RTX-4090"),
        ("AMD Instinct MI300X", "MI300X"),
    ],
)
def test_the_name_a_driver_reports_is_understood(reported: str, kind: str) -> None:
    model = gpu_model(reported)
    assert model is not None
    assert model.name == kind


@pytest.mark.parametrize("typed", ["h100", "H100-SXM", "h100_sxm", " H100 "])
def test_a_name_is_understood_as_people_type_it(typed: str) -> None:
    model = gpu_model(typed)
    assert model is not None
    assert model.name == "H100"


@pytest.mark.parametrize("name", ["", "H1000", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "T4"])
def test_other_names_are_not_guessed_at(name: str) -> None:
    assert gpu_model(name) is None


def test_every_kind_is_plausible_and_says_where_its_figures_come_from() -> None:
    for name in known_gpu_names():
        model = gpu_model(name)
        assert model is not None
        assert model.name == name
        assert len(model.source) > 20
        assert 20e9 < model.memory_bytes < 300e9
        assert 0.5e12 < model.bandwidth_bytes_per_s < 10e12 or name in ("L40", "L40S", "A10")
        assert model.fp8_flops is None or 1.9 < model.fp8_flops / model.bf16_flops < 2.1
        assert model.fp4_flops is None or model.fp8_flops is not None


def test_the_kinds_the_readme_promises_are_there() -> None:
    promised = {"A100-40GB", "A100-80GB", "H20", "H100", "H100-PCIe", "H200", "B200", "GB200"}
    assert promised | {"MI300X", "L40S", "RTX-4090"} <= set(known_gpu_names())


def test_dense_rates_are_the_datasheet_halved_not_its_sparse_headline() -> None:
    h200 = gpu_model("H200")
    assert h200 is not None
    assert h200.bf16_flops == pytest.approx(1979e12 / 2, rel=0.001)
    assert h200.bandwidth_bytes_per_s == 4.8e12
    assert h200.peer_bytes_per_s == 900e9 / 2


def test_an_unknown_kind_says_which_are_known_and_suggests_one() -> None:
    with pytest.raises(InvalidInput, match="'H2000'.*H200.*RTX-4090") as caught:
        require_gpu_model("H2000")
    assert "H200" in caught.value.hint
