"""Keeping a calibration's profile without overwriting an earlier one."""

from dataclasses import replace
from pathlib import Path

import pytest

from pdctl.errors import InvalidInput
from pdctl.inspection.llm import read_llm
from pdctl.measurement.calibration.result import Calibration, keep_as, keep_profile, kept
from pdctl.perf_model.fitting.fit import fit
from pdctl.perf_model.fitting.identify import Disagreement
from pdctl.perf_model.fitting.profiles import (
    calibrated_profile,
    find_own_profile,
    find_profile,
    read_profile,
)
from pdctl.perf_model.records import Parallelism, Profile
from pdctl.perf_model.residuals import Residual, own_file, read_residuals
from tests.perf_model.measured import measured, plan, roofline, truth


def profile(llm: str = "llama-3.1-8b", gpu: str = "H200", noise: float = 0.0) -> Profile:
    times = roofline(llm)
    steps = measured(truth(times), plan(), noise=noise)
    return calibrated_profile(
        steps,
        fit(steps, times),
        times,
        read_llm(llm),
        gpu=gpu,
        parallelism=Parallelism(),
        engine="sglang 0.5.23",
        attention_backend="fa3",
        date="2026-11-23",
        command="pdctl calibrate",
    )


def test_a_written_profile_reads_back(tmp_path: Path) -> None:
    kept, file = keep_profile(profile(), tmp_path)
    found = read_profile(file)
    assert found.factors == pytest.approx(kept.factors)
    assert found.measurements == kept.measurements


def test_a_profile_of_the_same_name_is_kept_and_the_new_one_numbered(tmp_path: Path) -> None:
    files = [keep_profile(profile(noise=0.01 * n), tmp_path)[1] for n in range(3)]
    assert [f.name.removesuffix(".json")[-3:] for f in files] == ["fa3", "--2", "--3"]
    newest = find_profile("H200", read_llm("llama-3.1-8b"), directories=(tmp_path,))
    assert newest is not None
    assert newest.id == files[2].stem


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    there = tmp_path / "mine.json"
    there.write_text("mine")
    with pytest.raises(InvalidInput, match="it was not overwritten") as refused:
        keep_as(profile(), there)
    assert refused.value.hint == f"-o {tmp_path / 'mine--2.json'}"
    assert there.read_text() == "mine"


def test_plan_takes_the_users_own_profile_before_a_bundled_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PDCTL_STATE_HOME", str(tmp_path))
    llm = read_llm("qwen3-8b")
    before = find_own_profile("H200", llm)
    keep_profile(profile("qwen3-8b"), tmp_path / "profiles")
    after = find_own_profile("H200", llm)
    assert after is not None
    assert after.llm == "qwen3-8b"
    assert before is None or before.id != after.id or before.llm != after.llm


def test_profiles_of_simulated_engines_are_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PDCTL_STATE_HOME", str(tmp_path))
    keep_profile(profile("qwen3-8b", gpu="A100-80GB"), tmp_path / "profiles" / "simulated")
    assert find_own_profile("A100-80GB", read_llm("qwen3-8b")) is None


def test_a_kept_calibration_adds_its_surprises_to_the_users_own_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PDCTL_STATE_HOME", str(tmp_path))
    surprise = Residual("llama-3.1-8b H200 steps", "dense", "H200", False, "few", 0.2, 0.1)
    found = Calibration(
        profile=profile(),
        file=None,
        num_measurements=1,
        elapsed_s=1.0,
        band=0.1,
        uncertainty=None,
        is_complete=True,
        unidentified=(),
        disagreements=(),
        surprises=(surprise,),
    )
    refused = replace(found, disagreements=(Disagreement(found.profile.measurements[0], 0.5),))
    assert kept(refused, None).file is None
    assert read_residuals(own_file()) == []
    assert kept(found, None).file is not None
    assert read_residuals(own_file()) == [surprise]
