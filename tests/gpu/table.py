"""Tables of docs/log.md: loads measured, predicted before, and replayed with bundled steps.

python -m tests.gpu.table [H200|H100]
"""

import random
import sys
from collections.abc import Iterable, Sequence
from statistics import median

from pdctl.workload.records import Slo
from tests.perf_model.loads import FIGURES, Load, figures, good, loads, pairs, replay

# TTFT and TPOT in ms; None: not asked for
SLOS: tuple[tuple[float | None, float | None], ...] = (
    (50, None), (100, None), (250, None), (600, None),
    (None, 5.3), (None, 5.6), (None, 6), (None, 7), (100, 6), (300, 5.6),
)  # fmt: skip
SAMPLES = 2000


def main() -> None:
    """Print both."""
    _say("| host | layout | rate | ISL/OSL | " + " | ".join(FIGURES) + " |")
    _say("|---|---|---|---|" + "---|" * len(FIGURES))
    errors: dict[tuple[str, str], list[float]] = {}
    gpu = sys.argv[1] if len(sys.argv) > 1 else "H200"
    for load in loads(gpu):
        measured, now = figures(load.measured), figures(replay(load))
        rough = figures(replay(load, has_profile=False))
        cells = []
        for name in FIGURES:
            real = measured[name]
            kinds = {"before": load.before[name], "replay": now[name], "roofline": rough[name]}
            off = {kind: value / real - 1 for kind, value in kinds.items()}
            for kind, error in off.items():
                arms = "colocated" if load.layout.endswith("C") else "split"
                errors.setdefault((f"{arms}, {kind}", name), []).append(abs(error))
            cells.append(f"{real:.4g} ({_percent(off['before'])}, {_percent(off['replay'])})")
        via = " past the router" if load.arm.endswith("-direct") else ""
        name = f"{load.layout}{' MoE' if load.arm == 'moe' else ''}{via}"
        cells = [load.host, name, f"{load.rate:g}/s", f"{load.isl}/{load.osl}", *cells]
        _say(f"| {' | '.join(cells)} |")
    for kind in dict.fromkeys(kind for kind, _ in errors):
        medians = (f"{name} {100 * median(errors[kind, name]):.1f} %" for name in FIGURES)
        _say(f"{kind}: median {', '.join(medians)}")
    if gpu == "H200":
        _verdicts()


def _verdicts() -> None:
    """Per SLO: over all loads, how often each arm wins for sure, and what the replay says."""
    _say("\n| SLO | loads | PD wins | colocated wins | called so | called otherwise |")
    _say("|---|---|---|---|---|---|")
    for ttft_ms, tpot_ms in SLOS:
        slo = Slo(ttft_ms and ttft_ms / 1e3, tpot_ms and tpot_ms / 1e3)
        won = [(sure(*pair, slo), called(*pair, slo)) for pair in pairs()]
        wins = {arm: sum(real == arm for real, _ in won) for arm in (1, -1)}
        agreed = sum(bool(real) and real == ours for real, ours in won)
        cells = [_slo_text(ttft_ms, tpot_ms), len(won), wins[1], wins[-1], agreed]
        cells.append(sum(real * ours < 0 for real, ours in won))
        _say(f"| {' | '.join(str(cell) for cell in cells)} |")


def sure(together: Load, split: Load, slo: Slo) -> int:
    """1: more requests of the split arm met it, −1: fewer; 0: a bootstrap's 95 % hold both."""
    a, b = good(together.measured, slo), good(split.measured, slo)
    rng = random.Random(0)
    gaps = sorted(_resampled(b, rng) - _resampled(a, rng) for _ in range(SAMPLES))
    low, high = gaps[int(0.025 * SAMPLES)], gaps[int(0.975 * SAMPLES)]
    return 1 if low > 0 else -1 if high < 0 else 0


def called(together: Load, split: Load, slo: Slo) -> int:
    """The same of the replay."""
    shares = [_share(good(replay(load), slo)) for load in (together, split)]
    return (shares[1] > shares[0]) - (shares[1] < shares[0])


def _resampled(flags: Sequence[bool], rng: random.Random) -> float:
    return _share(rng.choices(flags, k=len(flags)))


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags)


def _slo_text(ttft_ms: float | None, tpot_ms: float | None) -> str:
    parts: Iterable[str] = (
        f"{name} {value:g} ms" for name, value in (("TTFT", ttft_ms), ("TPOT", tpot_ms)) if value
    )
    return ", ".join(parts)


def _percent(share: float) -> str:
    return f"{100 * share:+.0f} %"


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
