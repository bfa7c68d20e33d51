"""The screens that describe models."""

from rich.console import Console, RenderableType

from pdctl.inspection.llm import read_llm
from pdctl.inspection.llm_size import moved_bytes, size_figures
from pdctl.tables.models import layer_counts, model_view, models_view


def _shown(view: RenderableType) -> str:
    console = Console(width=100, no_color=True)
    with console.capture() as capture:
        console.print(view)
    return capture.get()


def test_a_hybrid_shows_how_many_layers_of_each_kind_it_has() -> None:
    counts = layer_counts(read_llm("qwen3.5-35b-a3b"))
    assert sum(num for num, _ in counts) == 40
    assert [num for num, _ in counts] == [30, 10]
    assert counts[0][1].startswith("gated delta net")


def test_the_transfer_of_a_prompt_is_shown_only_where_the_prompt_is_known() -> None:
    llm = read_llm("gpt-oss-120b")
    assert "transfer" in _shown(model_view(llm, 8000))
    assert "transfer" not in _shown(model_view(llm, None))
    assert "keeps the last 128 tokens" in _shown(model_view(llm, None))


def test_the_list_names_each_model_once() -> None:
    names = ("qwen3-8b", "deepseek-r1")
    text = _shown(models_view([read_llm(name) for name in names]))
    assert all(text.count(name) == 1 for name in names)


def test_the_data_of_a_model_moves_nothing_unless_the_prompt_is_known() -> None:
    llm = read_llm("qwen3-next-80b-a3b")
    assert size_figures(llm, None)["kv_transfer_bytes"] is None
    assert size_figures(llm, 8000)["kv_transfer_bytes"] == moved_bytes(llm, 8000)
    assert (size_figures(llm, None)["state_bytes_per_request"] or 0) > 70e6
