"""Random histories of crashes, hangs and commands: what always holds afterwards."""

import os
import random
from dataclasses import replace

import pytest

from pdctl.deployment.records import ProcessSpec
from pdctl.engines.supervision.loop import SupervisorLoop
from tests.engines.world import World, fleet_in, fleet_specs, on_gpus, run, scale, spec

NUM_HISTORIES = int(os.environ.get("PDCTL_HISTORIES", "40"))
NUM_GPUS = 6
# on GPUs that nothing has: it can always be reached
FRESH = (
    fleet_specs(1, 1)[0],
    spec("prefill-x", "prefill", 500, gpu=90),
    spec("decode-x", "decode", 501, gpu=91),
)


def engines_of(fleet: SupervisorLoop, role: str) -> set[str]:
    return {p.name for p in fleet.processes.values() if p.spec.role == role and p.is_serving}


class Watched(World):
    """A world that checks every start: no GPU is given twice, nothing starts in a storm."""

    def start(self, spec: ProcessSpec):  # type: ignore[no-untyped-def]
        taken = [gpu for other in self.alive.values() for gpu in other.gpus]
        assert not set(spec.gpus) & set(taken), f"{spec.name} on a GPU in use"
        return super().start(spec)


def some_event(dice: random.Random, fleet: SupervisorLoop, world: Watched, *, real: bool) -> str:
    """One thing happens; its name."""
    names = [its.name for its in world.alive.values()]
    kind = dice.choice(
        ["crash", "crash", "freeze", "thaw", "break", "mend", "scale", "scale", "busy", "refuse"]
    )
    if kind == "crash" and names:
        world.end(dice.choice(names), -9)
    elif kind == "freeze" and names:
        world.frozen.add(dice.choice(names))
    elif kind == "thaw":
        world.frozen.clear()
    elif kind == "break" and names:
        world.broken.add(dice.choice(names))
    elif kind == "mend":
        world.broken.clear()
    elif kind == "busy" and names:
        world.busy = {dice.choice(names): dice.randint(0, 3)}
    elif kind == "refuse":
        world.switches_refused = [dice.choice(["instance is not idle", "no"])] * dice.randint(0, 2)
    elif kind == "scale":
        scale(fleet, some_layout(dice, can_switch=dice.random() < 0.7, real=real))
    return kind


def some_layout(dice: random.Random, *, can_switch: bool, real: bool) -> tuple[ProcessSpec, ...]:
    """One prefill and one decode engine at least, on GPUs chosen anew.

    can_switch: an engine may take the other role in its place, where a GPU is chosen again.
    real: on GPUs whose memory a decode engine leaves behind; KV transfers that do so exclude a
    change of roles in place.
    """
    gpus = dice.sample(range(NUM_GPUS), dice.randint(2, NUM_GPUS))
    roles = ["prefill", "decode", *(dice.choice(["prefill", "decode"]) for _ in gpus[2:])]
    engines = tuple(
        engine_on(gpu, role, can_switch=can_switch and not real)
        for role, gpu in zip(roles, gpus, strict=True)
    )
    return (fleet_specs(1, 1)[0], *(on_gpus(engines) if real else engines))


def engine_on(gpu: int, role: str, *, can_switch: bool) -> ProcessSpec:
    """The engine of a role on a GPU; one that can switch is on one port in both roles."""
    number = 10 * (gpu + 1) + (0 if can_switch else 1 + (role == "decode"))
    made = spec(f"{role}-{gpu}", role, number, gpu=gpu)  # type: ignore[arg-type]
    return replace(made, can_switch_role=can_switch)


@pytest.mark.parametrize("seed", range(NUM_HISTORIES))
def test_whatever_happens_the_supervisor_stays_sane(seed: int) -> None:
    dice, real = random.Random(seed), seed % 3 == 0
    world = Watched()
    fleet = fleet_in(world, some_layout(dice, can_switch=True, real=real))
    run(fleet, world, 8)
    assert fleet.was_ready
    for _ in range(12):
        some_event(dice, fleet, world, real=real)
        for _ in range(2 * dice.randint(1, 30)):
            before = {role: engines_of(fleet, role) for role in ("prefill", "decode")}
            before["living decode"] = {
                p.name for p in fleet.processes.values() if p.spec.role == "decode" and p.running
            }
            told = len(world.log)
            run(fleet, world, 0.5, every_s=0.5)
            assert_nobody_was_sent_away(before, world.log[told:])
    assert_no_storm(world)
    world.frozen.clear()
    world.broken.clear()
    world.busy.clear()
    scale(fleet, FRESH)
    run(fleet, world, 800, every_s=2.0)
    assert {p.name for p in fleet.processes.values() if p.is_serving} == {s.name for s in FRESH}
    assert fleet.is_quiet


def assert_nobody_was_sent_away(before: dict[str, set[str]], log: list[str]) -> None:
    """The last serving engine of a role is never terminated by the supervisor itself.

    But prefill engines that keep the memory of decode engines, none of which lives.
    """
    for role in ("prefill", "decode"):
        serving = before[role]
        if role == "prefill" and not before["living decode"]:
            continue
        ended = {line.split()[-1] for line in log if " terminate " in line or " switch " in line}
        assert not serving or serving - ended, f"the last {role} engine was sent away"


def assert_no_storm(world: Watched) -> None:
    """No process starts more than four times a minute, however often it is killed."""
    by_name: dict[str, list[float]] = {}
    for line in world.log:
        at, what, name = line.split()
        if what == "start":
            by_name.setdefault(name, []).append(float(at))
    for name, times in by_name.items():
        for first, fifth in zip(times, times[4:], strict=False):
            assert fifth - first >= 10, f"{name} started five times in {fifth - first:.0f} s"
