"""Profiles: reading, writing, errors with field and line, and the choice for a GPU and LLM."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pdctl.errors import InvalidInput
from pdctl.perf_model.engine_model import engine_model
from pdctl.perf_model.fitting.fit import fit
from pdctl.perf_model.fitting.profiles import (
    calibrated_profile,
    check_gpu,
    error_band,
    family,
    find_own_profile,
    find_profile,
    measured_dir,
    named_profile,
    profile_text,
    read_profile,
    write_profile,
)
from pdctl.perf_model.records import Parallelism, Profile
from pdctl.perf_model.roofline import step_times
from tests.perf_model.measured import TRUE_FACTORS, measured, plan, roofline, truth
from tests.perf_model.shapes import ONE, cluster, llm


def invented(name: str = "llama-3.1-8b", engine: str = "sglang 0.5.15") -> Profile:
    start = roofline(name)
    times = step_times(llm(name), cluster(), ONE, "colocated", attention_backend="triton")
    steps = measured(truth(start), plan(), noise=0.01)
    return calibrated_profile(
        steps,
        fit(steps, times),
        times,
        llm(name),
        gpu=cluster().gpu.name,
        parallelism=ONE,
        engine=engine,
        attention_backend="triton",
        date="2026-11-23",
        command="pdctl calibrate llama-3.1-8b",
    )


def test_a_profile_is_read_as_it_was_written(tmp_path: Path) -> None:
    profile = invented()
    path = write_profile(profile, tmp_path)
    assert path.name == "h200--dense-gqa--sglang-0.5.15--triton.json"
    again = read_profile(path)
    assert again.residuals == pytest.approx(profile.residuals, abs=1e-4)
    assert replace(again, residuals=()) == replace(profile, residuals=())
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_profile_file_has_one_line_per_measurement() -> None:
    profile = invented()
    lines = profile_text(profile).splitlines()
    rows = [line for line in lines if '"kind"' in line]
    assert len(rows) == len(profile.measurements)
    assert all('"residual"' in row for row in rows)


def test_step_times_take_a_profiles_factors_and_backend() -> None:
    profile, shape = invented(), llm("llama-3.1-8b")
    times = step_times(shape, cluster(), ONE, "colocated", profile=profile)
    assert times.prefill_pair_s == pytest.approx(truth(roofline(shape.name)).prefill_pair_s, 0.1)
    assert times.eager_s == roofline(shape.name).eager_s


def test_a_profile_scales_to_another_llm_of_its_family_and_other_parallelism() -> None:
    profile, shape, two = invented(), llm("qwen3-32b"), Parallelism(tp=2)
    plain = step_times(shape, cluster(), two, "decode", attention_backend="triton")
    scaled = step_times(shape, cluster(), two, "decode", profile=profile)
    factor = scaled.decode_base_s / plain.decode_base_s
    assert factor == pytest.approx(TRUE_FACTORS["decode_base_s"], rel=0.03)
    assert engine_model(shape, cluster(), two, "decode", profile=profile) is not None


def test_the_profile_of_this_gpu_and_family_is_found_and_no_other(tmp_path: Path) -> None:
    write_profile(invented(), tmp_path)
    found = find_profile("H200", llm("llama-3.1-8b"), directories=[tmp_path])
    assert found is not None
    assert found.llm == "llama-3.1-8b"
    assert find_profile("H200", llm("qwen3-32b"), directories=[tmp_path]) == found
    assert find_profile("H200", llm("qwen3-30b-a3b"), directories=[tmp_path]) is None
    assert find_profile("H100", llm("llama-3.1-8b"), directories=[tmp_path]) is None
    assert find_profile("H20", llm("llama-3.1-8b"), directories=[tmp_path]) is None


def test_the_nearest_of_several_profiles_is_taken(tmp_path: Path) -> None:
    older = invented(engine="sglang 0.5.10")
    large = replace(invented(), id="h200--b", llm="qwen3-32b", num_params=32.8e9)
    large = replace(large, architecture="Qwen3ForCausalLM", id="h200--large")
    newer = replace(invented(), date="2026-12-01")
    for profile in (older, large, newer):
        write_profile(profile, tmp_path)
    exact = find_profile("H200", llm("llama-3.1-8b"), directories=[tmp_path])
    assert exact is not None
    assert exact.date == "2026-12-01"
    same_kind = find_profile("H200", llm("qwen3-8b"), directories=[tmp_path])
    assert same_kind is not None
    assert same_kind.llm == "qwen3-32b"  # same architecture
    assert find_profile("H200", llm("qwen3-8b"), engine="sglang 9", directories=[tmp_path]) is None
    backend = find_profile("H200", llm("qwen3-8b"), attention_backend="fa3", directories=[tmp_path])
    assert backend is None


def test_a_profile_of_ones_own_overrides_the_bundled_file(tmp_path: Path) -> None:
    bundled, own = tmp_path / "bundled", tmp_path / "own"
    write_profile(invented(), bundled)
    write_profile(replace(invented(), date="2020-01-01"), own)
    found = find_profile("H200", llm("llama-3.1-8b"), directories=[bundled, own])
    assert found is not None
    assert found.date == "2020-01-01"


@pytest.fixture
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Empty directories for bundled profiles and the user's own."""
    monkeypatch.setenv("PDCTL_STATE_HOME", str(tmp_path))
    bundled = tmp_path / "bundled"
    bundled.mkdir()
    monkeypatch.setattr("pdctl.perf_model.fitting.profiles.measured_dir", lambda: bundled)
    return bundled, tmp_path / "profiles"


def id_of(profile: Profile | None) -> str:
    return profile.id if profile else ""


def test_a_bundled_profile_counts_only_for_the_backend_it_was_measured_with(
    homes: tuple[Path, Path],
) -> None:
    bundled, own = homes
    shape = llm("llama-3.1-8b")
    profile = replace(invented(), attention_backend="triton")
    write_profile(profile, bundled)
    assert find_own_profile("H200", shape) is None  # SGLang takes fa3 there
    assert id_of(find_own_profile("H200", shape, attention_backend="triton")) == profile.id
    write_profile(replace(profile, attention_backend="fa3", id="h200--fa3"), bundled)
    assert id_of(find_own_profile("H200", shape)) == "h200--fa3"
    write_profile(replace(profile, id="h200--mine"), own)
    # an own one counts whatever its backend, unless another is asked for
    assert id_of(find_own_profile("H200", shape)) == "h200--mine"
    assert id_of(find_own_profile("H200", shape, attention_backend="fa3")) == "h200--fa3"


def test_a_profile_is_named_by_its_file_or_its_id(homes: tuple[Path, Path]) -> None:
    bundled, own = homes
    file = write_profile(invented(), bundled)
    assert named_profile(file.stem) == named_profile(str(file)) == read_profile(file)
    write_profile(replace(invented(), date="2020-01-01"), own)
    assert named_profile(file.stem).date == "2020-01-01"
    with pytest.raises(InvalidInput, match="neither a profile nor a file") as refused:
        named_profile("nope")
    assert file.stem in refused.value.hint


def test_families_are_shapes_and_formats() -> None:
    names = ("llama-3.1-8b", "qwen3-30b-a3b", "deepseek-v3", "qwen3-next-80b-a3b")
    shapes = ["dense-gqa", "moe-gqa", "moe-mla-fp8", "moe-gqa-hybrid"]
    assert [family(llm(n)) for n in names] == shapes


def test_a_profile_for_another_gpu_is_refused_with_both_named() -> None:
    check_gpu(invented(), "H200")
    with pytest.raises(InvalidInput, match="was measured on H200, not on B200"):
        check_gpu(invented(), "B200")


def test_step_times_refuse_a_profile_of_another_gpu() -> None:
    with pytest.raises(InvalidInput, match="was measured on H200, not on H100"):
        step_times(llm("llama-3.1-8b"), cluster("H100"), ONE, "decode", profile=invented())


def test_the_band_is_narrow_where_it_was_measured_and_wide_where_not() -> None:
    profile = invented()
    own = error_band(profile, llm("llama-3.1-8b"))
    carried = error_band(profile, llm("qwen3-32b"))
    assert 0.05 <= own < carried < error_band(None, llm("qwen3-32b")) == 0.30


NONSENSE = [
    ('"gpu": "H200"', '"gpu": 5', "gpu must be a text, not 5"),
    ('"date": "2026-11-23"', '"date": "yesterday"', "date must look like"),
    ('"family": "dense-gqa"', '"family": "big"', "family must be one of"),
    ('"tp": 1', '"tp": 0', "parallelism.tp must be a number from 1"),
    ('"tp": 1', '"tp": 1.5', "parallelism.tp must be a whole number"),
    ('"tp": 1', '"tp": true', "parallelism.tp must be a number"),
    ('"engine": ', '"engin": ', "engin is not a field of a profile"),
    ('"kind": "decode"', '"kind": "thinking"', r"measurements.13.kind must be one of"),
]


@pytest.mark.parametrize(("old", "new", "words"), NONSENSE)
def test_nonsense_is_named_by_field_and_line(
    tmp_path: Path, old: str, new: str, words: str
) -> None:
    path = write_profile(invented(), tmp_path)
    text = path.read_text().replace(old, new, 1)
    path.write_text(text)
    line = text[: text.index(new)].count("\n") + 1
    with pytest.raises(InvalidInput, match=words) as caught:
        read_profile(path)
    assert f"{path.name}:{line}:" in caught.value.message


@pytest.mark.parametrize("value", ["-0.5", "1e9", '"fast"', "null", "[1]", "true"])
def test_a_factor_that_is_no_factor_is_refused_at_its_line(tmp_path: Path, value: str) -> None:
    path = write_profile(invented(), tmp_path)
    lines = path.read_text().splitlines()
    at = next(i for i, text in enumerate(lines) if '"prefill_token_s"' in text)
    lines[at] = f'    "prefill_token_s": {value},'
    path.write_text("\n".join(lines))
    with pytest.raises(InvalidInput, match=r"factors.prefill_token_s must be a number") as caught:
        read_profile(path)
    assert f":{at + 1}:" in caught.value.message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ":1: is not JSON"),
        ("{\n  'gpu': 1}", ":2: is not JSON"),
        ("[]", r"the file must be an object, not \[\]"),
        ('{"gpu": NaN}', "NaN is not a number that a profile can hold"),
        ('{"gpu": "a",\n "gpu": "b"}', "gpu appears twice"),
        ("{}", "the file lacks architecture"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_files_that_are_no_profile_are_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "h200--x.json"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=words):
        read_profile(path)


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    path = write_profile(invented(), tmp_path)
    data = json.loads(path.read_text())
    del data["command"]
    path.write_text(json.dumps(data))
    with pytest.raises(InvalidInput, match="lacks command"):
        read_profile(path)


def test_unreadable_binary_and_oversized_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_profile(tmp_path / "none.json")
    binary = tmp_path / "binary.json"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_profile(binary)
    huge = tmp_path / "huge.json"
    huge.write_bytes(b" " * (4 * 1024**2 + 1))
    with pytest.raises(InvalidInput, match="at most"):
        read_profile(huge)


def test_every_bundled_profile_reads_and_was_fitted_to_its_measurements() -> None:
    for path in measured_dir().glob("*.json"):
        profile = read_profile(path)
        assert len(profile.residuals) == len(profile.measurements)
        assert profile.left_out_error < 0.2, path.name
