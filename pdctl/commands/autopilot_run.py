"""Run `pdctl autopilot`: look, decide, move, verify, and log every decision."""

import dataclasses
import time
from contextlib import ExitStack

from rich.text import Text

from pdctl.commands.progress import say
from pdctl.console import out, print_json, show
from pdctl.deployment.build import counts_of
from pdctl.deployment.records import Counts
from pdctl.engines.lifecycle.deployment_key import use_key_of
from pdctl.engines.lifecycle.follow import settling
from pdctl.engines.lifecycle.rescale import rescale
from pdctl.engines.lifecycle.running import find
from pdctl.engines.supervision.recorder import recorded
from pdctl.errors import InvalidInput, PdctlError
from pdctl.measurement.live_what_if import live_what_if, role_fault
from pdctl.status.autopilot.decision import LATEST, Limits, Move, next_step
from pdctl.status.autopilot.journal import Entry, moves_of, read_entries, write_entry
from pdctl.status.autopilot.split_advice import Split, SplitAdvice, split_advice
from pdctl.status.records import WhatIf
from pdctl.status.targets import source_of_state
from pdctl.status.watch import REPLAYED_S, Watch
from pdctl.status.what_if_file import keep_what_if
from pdctl.tables.autopilot import entry_line, report_lines
from pdctl.workload.records import Slo

LOOKS_PER_COOL_DOWN = 5
CHANGE_TIMEOUT_S = 1800.0


def run_autopilot(name: str, limits: Limits, *, dry_run: bool, as_json: bool) -> None:
    """Look and decide until Ctrl-C. Raises StateConflict once the deployment has stopped."""
    use_key_of(name)
    _refuse_what_it_cannot_judge(name)
    limits = dataclasses.replace(limits, since_s=time.time())
    dry_until_s = limits.since_s + limits.cool_down_s
    looks: list[WhatIf] = []
    if not dry_run:
        say(f"{name}: the first {limits.cool_down_s:.0f} s are dry.")
    while True:
        is_dry = dry_run or time.time() < dry_until_s
        entry = look_once(name, limits, looks, is_dry=is_dry)
        write_entry(name, entry)
        _tell(entry, as_json=as_json)
        if entry.move:
            looks.clear()
        time.sleep(limits.cool_down_s / LOOKS_PER_COOL_DOWN)


def _tell(entry: Entry, *, as_json: bool) -> None:
    if as_json:
        print_json("autopilot", dataclasses.asdict(entry))
    else:
        out().print(Text(entry_line(entry)), soft_wrap=True)


def look_once(name: str, limits: Limits, looks: list[WhatIf], *, is_dry: bool) -> Entry:
    """One turn: adds a what-if to `looks`, decides, and makes the move unless it is dry."""
    now, found = _split_of(name), live_what_if(name, limits.cool_down_s)
    brief = live_what_if(name, LATEST * limits.cool_down_s)
    latest = None if isinstance(brief, str) or brief.layout != now.layout else brief
    look = None if isinstance(found, str) else found
    at_s = look.at_s if look else time.time()
    if look:
        keep_what_if(name, look)
        looks.append(look)
    since_change = [one for one in looks if one.layout == now.layout]
    moves = moves_of(read_entries(name))
    decision = next_step(
        now,
        since_change,
        moves,
        limits,
        at_s=at_s,
        latest=latest,
        queues=_queues(name, now, at_s),
    )
    if isinstance(found, str) and decision.action == "wait":
        decision = dataclasses.replace(decision, why=f"{found} {decision.why}")
    entry = Entry(at_s, now.layout, decision, look, latest=latest, is_dry=is_dry)
    if decision.action == "wait" or decision.to is None or is_dry:
        return entry
    reached, problem = _change(name, now, decision.to)
    if reached == now:
        return dataclasses.replace(entry, problem=problem)
    # it counts from when its effect can begin to show
    seen = look.seen if look else None
    move = Move(time.time(), decision.action, now, reached, seen, decision.promised)
    return dataclasses.replace(entry, move=move, problem=problem)


def _queues(name: str, now: Split, at_s: float) -> SplitAdvice | None:
    """The change that the last minute's pages call for, as the supervisor recorded them.

    None for simulated engines in fast motion, whose pages mix their own time and real time.
    """
    source = source_of_state(name)
    watched = source()
    if watched.phase != "serving" or watched.sim_speed not in (None, 1.0):
        return None
    watch = Watch(source)
    watch.replay(recorded(name, at_s - REPLAYED_S))
    watch.close()
    slo = Slo(watched.ttft_slo_s, watched.tpot_slo_s)
    return split_advice(now, tuple(watch.moments), slo)


def _refuse_what_it_cannot_judge(name: str) -> None:
    """Raise before the first window."""
    _split_of(name)
    watched = source_of_state(name)()
    if not Slo(watched.ttft_slo_s, watched.tpot_slo_s).is_given:
        raise InvalidInput(
            f"{name} has no SLOs, which the autopilot needs to judge a move.",
            hint="start it with pdctl up … --ttft 3s --tpot 60ms, or with slo: in its pd.yaml",
        )


def _split_of(name: str) -> Split:
    counts = counts_of(find(name).layout)
    if not counts.prefill or not counts.decode:
        raise InvalidInput(
            f"{name} has colocated engines, which have no roles to change.",
            hint="pdctl up --prefill 2 --total 8 starts a split deployment",
        )
    return Split(counts.prefill, counts.decode)


def _change(name: str, now: Split, to: Split) -> tuple[Split, str]:
    """Change one engine after the other, and verify after each that all have their roles.

    Returns how far it came, and what went wrong, or "".
    """
    by = 1 if to.num_prefill > now.num_prefill else -1
    while now != to:
        step = Split(now.num_prefill + by, now.num_decode - by)
        problem = _step(name, step)
        if problem:
            return now, problem
        now = step
    return now, ""


def _step(name: str, to: Split) -> str:
    counts = Counts(prefill=to.num_prefill, decode=to.num_decode)
    try:
        with ExitStack() as held:
            change = rescale(name, counts, held=held)
            for _ in settling(name, revision=change.launch.revision, timeout_s=CHANGE_TIMEOUT_S):
                pass
        return role_fault(name)
    except PdctlError as problem:
        return problem.message


def show_report(name: str, *, as_json: bool) -> None:
    """Show the moves of a deployment's autopilot with what they promised and brought."""
    entries = read_entries(name)
    data = {"name": name, "entries": [dataclasses.asdict(one) for one in entries]}
    lines = report_lines(name, entries)
    show("autopilot", data, as_json=as_json, render=lambda: Text("\n".join(lines)))
