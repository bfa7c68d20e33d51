"""A calibration as a screen: what is known now, how well, and where it lies."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pdctl.measurement.calibrate import Progress
from pdctl.measurement.calibrated import Calibration
from pdctl.perf_model.partial_fit import Disagreement
from pdctl.perf_model.profile_checks import WEIGHTS
from pdctl.perf_model.records import Measurement
from pdctl.units import format_count, format_seconds

# field of StepTimes -> what it is, and of how many of its unit the time is shown
NAMES: dict[str, tuple[str, float]] = {
    "prefill_base_s": ("prefill, each step", 1),
    "prefill_token_s": ("prefill, 1,000 tokens", 1e3),
    "prefill_pair_s": ("prefill, attention of 8,000 tokens", 8000**2 / 2),
    "prefill_weight_s": ("prefill, reading the weights", 1),
    "prefill_cached_weight": ("prefill, a cached pair over a new one", 1),
    "prefill_start_s": ("prefill, until the GPU has it", 1),
    "request_s": ("a request beside its steps", 1),
    "decode_base_s": ("decode, each step", 1),
    "decode_weight_s": ("decode, reading all experts", 1),
    "decode_request_s": ("decode, 100 requests", 1e2),
    "decode_context_s": ("decode, 100,000 tokens of context", 1e5),
    "decode_latency_s": ("decode, one request of 10,000 tokens", 1e4),
    "decode_compute_s": ("decode, products of 100 requests", 1e2),
    "eager_s": ("a step without graphs, at least", 1),
    "prefill_row_s": ("prefill, 1,000 rows", 1e3),
    "decode_split_s": ("decode, putting split sequences together", 1),
    "transfer_base_s": ("KV transfer, each", 1),
    "transfer_token_s": ("KV transfer, 1,000 tokens", 1e3),
}


def calibration_view(found: Calibration) -> RenderableType:
    """The screen of `pdctl calibrate`."""
    parts: list[RenderableType] = [_headline(found), Text(), _coefficients(found)]
    if found.disagreements:
        parts += [Text(), Text("These steps disagree with the fit:"), _points(found.disagreements)]
    parts += [Text(), *(Text(note, style="dim") for note in _notes(found))]
    return Group(*parts)


def _headline(found: Calibration) -> Text:
    profile = found.profile
    what = f"{profile.llm} · tp {profile.parallelism.tp} · {profile.gpu} · {profile.engine}"
    counted = f"{found.num_measurements} measurements in {format_seconds(found.elapsed_s)}"
    if found.file is None:
        text = Text(f"Not calibrated: {what}", style="bold red")
        text.append(f"\n{counted} do not fit; nothing was written.", style="default")
        return text
    text = Text(f"Calibrated: {what}", style="bold green")
    text.append(f"\n{counted}; step times to be believed within ±{found.band * 100:.0f} %.")
    return text


def _coefficients(found: Calibration) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False, show_edge=False)
    for head, justify in (("", "left"), ("measured", "right"), ("of the roofline", "right")):
        table.add_column(head, justify=justify)  # type: ignore[arg-type]
    for name, factor in found.profile.factors.items():
        label, unit = NAMES.get(name, (name, 1))
        value = found.profile.coefficients[name] * unit
        shown = f"{value:.2f} ×" if name in WEIGHTS else format_seconds(value)
        table.add_row(label, shown, f"{factor:.2f} ×")
    return table


def _points(points: Sequence[Disagreement]) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False, show_header=False)
    for point in points[:10]:
        times = 1 / max(1e-3, 1 + point.residual)
        table.add_row(f"  {words(point.step)}", f"took {times:.2f} × as long as the fit has it")
    return table


def _notes(found: Calibration) -> list[str]:
    notes = list(found.notes)
    if found.unidentified:
        kept = ", ".join(NAMES.get(n, (n, 1))[0] for n in found.unidentified)
        notes.append(f"Not identified, left at the roofline: {kept}.")
    if found.given_up:
        some = "; ".join(words(m) for m in found.given_up[:3])
        notes.append(f"{len(found.given_up)} steps did not come about: {some}.")
    if found.uncertainty is not None and not found.is_complete:
        notes.append(
            f"The time was up with the least certain step known to "
            f"±{found.uncertainty * 100:.1f} %; a longer --budget makes it better."
        )
    if found.request_s:
        notes.append(
            f"Beside its step a small request takes {format_seconds(found.request_s)} "
            "(tokenizer, queues between processes)."
        )
    return notes


def where_lines(found: Calibration) -> list[str]:
    """The file and what to do with it, as lines that must not be wrapped."""
    if found.file is None:
        return []
    llm = found.profile.llm
    if found.is_simulated:
        return [
            f"pdctl plan {llm} --profile {found.file}",
            "It is of simulated engines: plan does not look there by itself.",
        ]
    return [f"profile  {found.file}", f"next     pdctl plan {llm} uses it on this kind of GPU"]


def words(step: Measurement) -> str:
    """A step in words: prefill 512 after 8,192 · decode 64 × 2,048."""
    if step.kind == "decode":
        return f"decode {step.batch} × {format_count(step.context // max(1, step.batch))}"
    if step.kind == "transfer":
        return f"KV transfer of {format_count(step.new_tokens)}"
    prompts = f"{step.batch} × " if step.batch > 1 and step.kind != "mixed" else ""
    after = f" after {format_count(step.cached_tokens)}" if step.cached_tokens else ""
    beside = f" beside {step.batch} decoding" if step.kind == "mixed" else ""
    return f"{_PROMPT[step.kind]} {prompts}{format_count(step.new_tokens)}{after}{beside}"


_PROMPT = {
    "prefill": "prefill",
    "mixed": "prefill",
    "stall": "decodes waiting for a prefill of",
    "answer": "answer, while another decodes, to",
    "request": "a request beside its steps,",
}


def progress_line(now: Progress) -> str:
    """measuring decode 64 × 2,048 · 61 measured · ±1.2 % · 48 s of 240 s."""
    known = "" if now.uncertainty is None else f" · ±{now.uncertainty * 100:.1f} %"
    return (
        f"measuring {words(now.doing)} · {now.num_taken} measured{known} · "
        f"{now.elapsed_s:.0f} s of {now.budget_s:.0f} s"
    )
