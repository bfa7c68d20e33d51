"""What a user may call a model: a directory, an id in the local cache, a bundled name."""

import json
import re
from pathlib import Path

import pytest

from pdctl.errors import InvalidInput
from pdctl.inspection import releases
from pdctl.inspection.llm import read_llm
from pdctl.inspection.model_files import bundled_names, find_model
from pdctl.paths import profiles_dir

MODELS = Path(__file__).parent.parent / "data" / "models"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache and an empty working directory."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def put(cache: Path, model: str, revision: str, *, main: bool = True) -> None:
    folder = cache / f"models--{model.replace('/', '--')}"
    snapshot = folder / "snapshots" / revision
    snapshot.mkdir(parents=True)
    config = json.loads((profiles_dir() / "models" / "qwen3-8b.json").read_text())
    (snapshot / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 7}))
    if main:
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text(revision)


def test_the_names_the_readme_promises_are_bundled() -> None:
    wanted = """
        llama-3.1-8b llama-3.1-70b qwen3-8b qwen3-32b qwen3-30b-a3b qwen3-235b-a22b deepseek-v3
        deepseek-r1 kimi-k2 gpt-oss-20b gpt-oss-120b glm-4.5 mixtral-8x7b qwen3.5-397b-a17b
        qwen3.5-35b-a3b qwen3-next-80b-a3b deepseek-v3.2 deepseek-v4-flash deepseek-v4-pro glm-4.7
        glm-5 kimi-k2.5 kimi-k2-thinking minimax-m2.5 nemotron-3-nano-30b-a3b
        nemotron-3-super-120b-a12b gemma-4-31b mistral-small-4-119b qwen3-vl-235b-a22b
    """
    assert set(wanted.split()) <= set(bundled_names())


def test_every_release_in_the_table_has_a_bundled_shape() -> None:
    for name, found in releases._table().items():
        assert found.shape in bundled_names(), name
        assert name not in bundled_names()


@pytest.mark.parametrize(
    ("typed", "name", "quantization"),
    [
        ("moonshotai/Kimi-K2-Thinking", "kimi-k2-thinking", "compressed-tensors int4"),
        ("moonshotai/Kimi-K2-Instruct", "kimi-k2", "fp8"),
        ("nvidia/Qwen3.5-397B-A17B-NVFP4", "qwen3.5-397b-a17b-nvfp4", "nvfp4"),
        ("Qwen/Qwen3.5-35B-A3B-FP8", "qwen3.5-35b-a3b", "fp8"),
    ],
)
def test_an_exact_id_decides(typed: str, name: str, quantization: str) -> None:
    llm = read_llm(typed)
    assert (llm.name, llm.quantization) == (name, quantization)


def test_an_unknown_name_is_answered_with_its_own_family() -> None:
    with pytest.raises(InvalidInput) as caught:
        find_model("Qwen/Qwen3.5-9B")
    assert "qwen3.5" in caught.value.message
    assert "deepseek" not in caught.value.message


def test_params_json_alone_is_read(tmp_path: Path) -> None:
    file = MODELS / "Mistral-Large-3-675B-Instruct-2512-params.json"
    folder = tmp_path / "mistral-large"
    folder.mkdir()
    (folder / "params.json").write_text(json.dumps(json.loads(file.read_text())["params.json"]))
    llm = read_llm(str(folder))
    assert (llm.architecture, llm.num_layers) == ("MistralLarge3ForCausalLM", 61)


@pytest.mark.parametrize(
    ("typed", "name", "path"),
    [
        ("deepseek-r1", "deepseek-r1", None),
        ("DeepSeek-R1", "deepseek-r1", None),
        ("Qwen/Qwen3-32B", "qwen3-32b", "Qwen/Qwen3-32B"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b", "meta-llama/Llama-3.1-8B-Instruct"),
        ("meta-llama/Meta-Llama-3.1-70B", "llama-3.1-70b", "meta-llama/Meta-Llama-3.1-70B"),
        ("meta-llama/Llama-3.3-70B-Instruct", "llama-3.1-70b", "meta-llama/Llama-3.3-70B-Instruct"),
        ("deepseek-ai/DeepSeek-V3-0324", "deepseek-v3", "deepseek-ai/DeepSeek-V3-0324"),
        ("deepseek-ai/DeepSeek-V3.1", "deepseek-v3", "deepseek-ai/DeepSeek-V3.1"),
        ("openai/gpt-oss-120b", "gpt-oss-120b", "openai/gpt-oss-120b"),
        ("mistralai/Mixtral-8x7B-v0.1", "mixtral-8x7b", "mistralai/Mixtral-8x7B-v0.1"),
        ("zai-org/GLM-4.5", "glm-4.5", "zai-org/GLM-4.5"),
    ],
)
def test_a_bundled_shape_is_found_and_the_id_kept_for_the_engine(
    typed: str, name: str, path: str | None
) -> None:
    llm = read_llm(typed)
    assert (llm.name, llm.path, llm.assumptions) == (name, path, ())


def test_a_later_release_has_the_longer_context_it_came_with() -> None:
    assert read_llm("Qwen/Qwen3-30B-A3B-Instruct-2507").max_context == 262144
    assert read_llm("Qwen/Qwen3-30B-A3B").max_context == 40960


def test_a_quantised_release_of_a_bundled_shape_is_smaller_and_said() -> None:
    llm = read_llm("Qwen/Qwen3-32B-FP8")
    assert (llm.linear_bytes, llm.quantization) == (1.0, "fp8")
    assert llm.assumptions[0] == "Taken as the bundled qwen3-32b with fp8 weights."
    assert read_llm("nvidia/DeepSeek-R1-0528-NVFP4").expert_bytes == 0.5625
    assert read_llm("Qwen/Qwen3-8B-AWQ").compute_dtype == "bf16"


@pytest.mark.parametrize(
    "other",
    ["zai-org/GLM-4.5V", "deepseek-ai/DeepSeek-R1-Distill-Llama-70B", "Qwen/Qwen3-32B-Eagle3"],
)
def test_a_name_that_only_starts_the_same_is_another_model(other: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(other)):
        find_model(other)


def test_the_local_cache_comes_before_the_bundled_shape(cache: Path) -> None:
    put(cache, "Qwen/Qwen3-8B", "abc123")
    llm = read_llm("Qwen/Qwen3-8B")
    assert (llm.name, llm.num_layers, llm.path) == ("Qwen3-8B", 7, "Qwen/Qwen3-8B")


def test_a_cached_model_without_a_main_revision_is_found_too(cache: Path) -> None:
    put(cache, "someone/their-finetune", "abc123", main=False)
    assert read_llm("someone/their-finetune").num_layers == 7


@pytest.mark.parametrize("variable", ["HF_HOME", "XDG_CACHE_HOME"])
def test_the_cache_is_where_huggingface_puts_it(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.delenv("HF_HOME", raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    below = "hub" if variable == "HF_HOME" else "huggingface/hub"
    put(tmp_path / below, "someone/model", "abc123")
    assert read_llm("someone/model").num_layers == 7


def test_a_revision_cannot_lead_out_of_the_cache(cache: Path, tmp_path: Path) -> None:
    put(cache, "someone/model", "abc123")
    (tmp_path / "config.json").write_text("{}")
    (cache / "models--someone--model" / "refs" / "main").write_text("../../../..")
    assert read_llm("someone/model").num_layers == 7


def test_a_directory_without_config_json_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"work is a directory without config\.json"):
        find_model(str(tmp_path / "work"))


def test_an_unrelated_directory_of_a_bundled_name_does_not_hide_it() -> None:
    Path("qwen3-8b").mkdir()
    assert read_llm("qwen3-8b").num_layers == 36


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("qwen3-23b", "qwen3-32b"),
        ("deepsek-r1", "deepseek-r1"),
        ("llama-3-8b", "llama-3.1-8b"),
        ("openai/gptoss-120b", "gpt-oss-120b"),
    ],
)
def test_a_typo_is_answered_with_the_nearest_bundled_name(typo: str, meant: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(repr(typo))) as caught:
        find_model(typo)
    assert meant in caught.value.hint


@pytest.mark.parametrize(
    "model", ["", "  ", "\0", "../nowhere", "x" * 5000, "a/b/c", "~nobody/x", "-"]
)
def test_a_strange_name_is_an_error_like_any_other(model: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        find_model(model)
    assert len(caught.value.message) < 500


def test_a_gguf_file_is_told_apart() -> None:
    with pytest.raises(InvalidInput, match="GGUF"):
        find_model("weights/model.Q4_K_M.gguf")
