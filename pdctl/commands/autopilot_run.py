"""Run `pdctl autopilot`: look, decide, move, verify, and log every decision."""

import dataclasses
import time

from rich.text import Text

from pdctl.commands.progress import say
from pdctl.console import out, print_json, show
from pdctl.deployment.build import counts_of
from pdctl.deployment.records import Counts
from pdctl.engines.lifecycle.deployment_key import use_key_of
from pdctl.engines.lifecycle.follow import settling
from pdctl.engines.lifecycle.rescale import rescale
from pdctl.engines.lifecycle.running import find
from pdctl.errors import InvalidInput, PdctlError
from pdctl.measurement.live_what_if import live_what_if, role_fault
from pdctl.status.autopilot import Decision, Limits, Move, Split, next_step
from pdctl.status.autopilot_journal import Entry, moves_of, read_entries, write_entry
from pdctl.status.records import WhatIf
from pdctl.status.what_if_file import keep_what_if
from pdctl.tables.autopilot import entry_line, report_lines

LOOKS_PER_COOL_DOWN = 5
CHANGE_TIMEOUT_S = 1800.0


def run_autopilot(name: str, limits: Limits, *, dry_run: bool, as_json: bool) -> None:
    """Look and decide until Ctrl-C. Raises StateConflict once the deployment has stopped."""
    use_key_of(name)
    _split_of(name)  # refuses colocated engines before the first window
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
    now, look = _split_of(name), live_what_if(name, limits.cool_down_s)
    at_s = time.time()
    if isinstance(look, str):
        return Entry(at_s, now.layout, Decision("wait", look), is_dry=is_dry)
    keep_what_if(name, look)
    looks.append(look)
    since_change = [one for one in looks if one.layout == now.layout]
    decision = next_step(now, since_change, moves_of(read_entries(name)), limits)
    entry = Entry(at_s, now.layout, decision, look, is_dry=is_dry)
    if decision.action == "wait" or decision.to is None or is_dry:
        return entry
    problem = _change(name, decision.to)
    if problem:
        return dataclasses.replace(entry, problem=problem)
    promised = decision.promised or 0.0
    # it counts from when its effect can begin to show
    move = Move(time.time(), decision.action, now, decision.to, look.seen, promised)
    return dataclasses.replace(entry, move=move)


def _split_of(name: str) -> Split:
    counts = counts_of(find(name).layout)
    if not counts.prefill or not counts.decode:
        raise InvalidInput(
            f"{name} has colocated engines, which have no roles to change.",
            hint="pdctl up --prefill 2 --total 8 starts a split deployment",
        )
    return Split(counts.prefill, counts.decode)


def _change(name: str, to: Split) -> str:
    """Make a change and verify that every engine has its role. Returns what went wrong, or ""."""
    try:
        change = rescale(name, Counts(prefill=to.num_prefill, decode=to.num_decode))
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
