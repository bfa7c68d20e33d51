"""A model as a table of its layers and sizes; the list of models that need no download."""

from collections import Counter
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pdctl.inspection.layers import Layer
from pdctl.inspection.llm_size import size_figures, trimmed_window
from pdctl.inspection.records import Llm
from pdctl.units import format_bytes, format_count

GIGA = 1e9


def model_view(llm: Llm, prompt_tokens: float | None) -> RenderableType:
    """The layers of a model by kind, its sizes, and what the reader guessed.

    prompt_tokens: of the mean prompt, for the bytes that a split moves; None: not shown.
    """
    title = Text(f"{llm.name} ({llm.architecture}, {llm.num_layers} layers)")
    guesses = [Text(f"! {sentence}", style="yellow") for sentence in llm.guesses]
    return Group(title, "", _layers(llm), "", _sizes(llm, prompt_tokens), *guesses)


def models_view(llms: Sequence[Llm]) -> RenderableType:
    """One row per model that `plan` knows by name, with its sizes."""
    table = _grid("model", "params", "active", "weights", "KV/token", "state/request")
    table.padding = (0, 2, 0, 0)
    table.columns[0].no_wrap = False  # in a narrow terminal names fold, figures stay whole
    for llm in llms:
        data = size_figures(llm, None)
        table.add_row(
            llm.name,
            _params(data["total_params"]),
            _params(data["active_params"]),
            _bytes(data["weight_bytes"]),
            _bytes(data["kv_bytes_per_token"]),
            _bytes(data["state_bytes_per_request"]),
        )
    return table


def layer_counts(llm: Llm) -> tuple[tuple[int, str], ...]:
    """The number of a model's layers of each kind, in order of first appearance."""
    return tuple((num, name) for name, num in Counter(map(_layer_name, llm.layers)).items())


def _layer_name(layer: Layer) -> str:
    mixers = " beside ".join(mixer.name for mixer in layer.mixers)
    mlps = " beside ".join(mlp.name for mlp in layer.mlps)
    return " + ".join(part for part in (mixers, mlps) if part) or "nothing"


def _layers(llm: Llm) -> Table:
    table = _grid("layers", "kind")
    for num, name in layer_counts(llm):
        table.add_row(f"{num} ×", name)
    return table


def _sizes(llm: Llm, prompt_tokens: float | None) -> Table:
    data = size_figures(llm, prompt_tokens)
    rows = [
        ("parameters", f"{_params(data['total_params'])}, {_params(data['active_params'])} active"),
        ("weights", f"{_bytes(data['weight_bytes'])} ({llm.quantization or '16-bit'})"),
        ("KV cache", f"{_bytes(data['kv_bytes_per_token'])} per token"),
    ]
    if window := trimmed_window(llm):
        rows.append(("windows", f"SGLang keeps the last {window:,} tokens of window layers"))
    if data["state_bytes_per_request"]:
        rows.append(("state", f"{_bytes(data['state_bytes_per_request'])} per request"))
    if prompt_tokens is not None:
        moved = _bytes(data["kv_transfer_bytes"])
        rows.append(("transfer", f"{moved} for a prompt of {format_count(round(prompt_tokens))}"))
    if llm.max_context:
        rows.append(("context", f"{format_count(llm.max_context)} tokens"))
    table = Table.grid(padding=(0, 3, 0, 0))
    for name, value in rows:
        table.add_row(name, value)
    return table


def _params(number: float | None) -> str:
    if number is None:
        return "unknown"
    digits = 3 if number < 100 * GIGA else 4
    return f"{number / GIGA:.{digits}g} B"


def _bytes(number: float | None) -> str:
    if number is None:
        return "unknown"
    return format_bytes(number) if number else "–"


def _grid(*heads: str) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False, show_edge=False)
    for head in heads:
        table.add_column(head, no_wrap=True)
    return table
