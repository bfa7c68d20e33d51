"""pdctl on a host with GPUs, by its command line alone: what the runs of this folder share.

Everything a run leaves lies in one folder: loads.jsonl (every request, and what was predicted of
its load before it began), rows.jsonl (a line a load: predicted beside measured), pages, logs.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# dummy weights need no tokenizer and no download; prompts are token ids
ENGINE_ARGS = "--load-format dummy --skip-tokenizer-init"
FIGURES = ("ttft p50", "ttft p99", "tpot p50", "tpot p99")


class Failed(Exception):
    """A command did not do what the run needs."""


@dataclass(frozen=True)
class Point:
    """One load: requests per second, prompt and output tokens, seconds of sending."""

    rate: float
    isl: int
    osl: int
    seconds: int = 20


class Rig:
    """A run: its folder, its clock, and pdctl."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.out: Path = options.out
        self.began = time.monotonic()
        self._lock = threading.Lock()
        self.out.mkdir(parents=True, exist_ok=True)
        home = Path(os.environ.get("PDCTL_STATE_HOME") or self.out / "state")
        self.env = {**os.environ, "PDCTL_STATE_HOME": str(home), "NO_COLOR": "1", "COLUMNS": "120"}
        self.names: list[str] = []

    @property
    def left_s(self) -> float:
        """Seconds until the run must be over."""
        return float(self.options.minutes) * 60 - (time.monotonic() - self.began)

    def say(self, text: str) -> None:
        """A line with the time it was said."""
        with self._lock:
            sys.stdout.write(f"[{time.monotonic() - self.began:5.0f} s] {text}\n")
            sys.stdout.flush()

    def pdctl(self, *words: str, log: str = "commands") -> str:
        """stdout of a command; its stderr goes to a log. Raises Failed where it fails."""
        command = [sys.executable, "-m", "pdctl", *words]
        try:
            done = subprocess.run(
                command, env=self.env, capture_output=True, text=True, timeout=max(self.left_s, 5)
            )
        except subprocess.TimeoutExpired as late:
            raise Failed(f"{shlex.join(words)}: no time left") from late
        with self._lock, (self.out / f"{log}.log").open("a") as into:
            into.write(f"$ pdctl {shlex.join(words)}\n{done.stderr}\n")
        if done.returncode not in (0, 3):
            raise Failed(f"pdctl {words[0]}: {done.stderr.strip()[-400:]}{done.stdout[-400:]}")
        return done.stdout

    def json(self, *words: str, log: str = "commands") -> Any:
        """The data of a command's --json envelope."""
        return json.loads(self.pdctl(*words, "--json", log=log))["data"]

    def up(self, name: str, model: str, shape: str, gpus: str, *words: str, flags: str = "") -> Any:
        """Start a deployment, detached. shape: PREFILL/TOTAL. flags: its own SGLang flags."""
        prefill, total = shape.split("/")
        self.names.append(name)
        args = ["--args", flags or f"{ENGINE_ARGS} {self.options.args}"]
        if self.options.engine == "sim":
            args = ["--engine", "sim"]
        place = [] if self.options.engine == "sim" else ["--gpus", gpus]
        state = self.json(
            *("up", model, "--prefill", prefill, "--total", total, "--name", name, "-d"),
            *(*args, *place, "--transfer-backend", self.options.transfer, *words),
            log=name,
        )
        slowest = max(p["ready_after_s"] for p in state["processes"] if p["role"] != "router")
        self.say(
            f"{name} {state['layout']} ready after {state['ready_after_s']:.1f} s, slowest engine "
            f"{slowest:.1f} s, first request {1e3 * state['first_request_ttft_s']:.0f} ms"
        )
        self.row({"what": "up", "name": name, "layout": state["layout"], "slowest_s": slowest}
                 | {"ready_s": state["ready_after_s"]})  # fmt: skip
        return state

    def state(self, name: str) -> Any:
        """What its supervisor last wrote of a deployment."""
        return json.loads((Path(self.env["PDCTL_STATE_HOME"]) / name / "state.json").read_text())

    def down(self, name: str) -> None:
        """Stop a deployment and keep its logs."""
        logs = Path(self.env["PDCTL_STATE_HOME"]) / name
        for kept in ("logs", "events.jsonl"):
            if (logs / kept).is_dir():
                shutil.copytree(logs / kept, self.out / "logs" / name, dirs_exist_ok=True)
            elif (logs / kept).is_file():
                (self.out / "logs").mkdir(exist_ok=True)
                shutil.copy(logs / kept, self.out / "logs" / f"{name}-{kept}")
        self.say(self.pdctl("down", name, "--now", log=name).strip() or f"{name} is down")

    def load(self, url: str, model: str, point: Point, *words: str, tag: str) -> Any:
        """Play one load against what serves at `url`; its row, predicted beside measured."""
        arm = self.json(
            *("measure", model, "--target", url, "--rate", str(point.rate)),
            *("--isl", str(point.isl), "--osl", str(point.osl)),
            *("--duration", f"{point.seconds}s", "-o", str(self.out / f"loads-{tag}.jsonl")),
            *words,
            log=f"measure-{tag}",
        )["arms"]["target"]
        found = {f["figure"]: (f["predicted"], f["measured"]) for f in arm["figures"]}
        row = {
            "what": "load", "tag": tag, "layout": arm["layout"], "rate": point.rate,
            "isl": point.isl, "osl": point.osl, "words": list(words), **found,
            "requests": arm["num_requests"], "failed": arm["num_failed"],
            "cut": arm["num_truncated"], "late_p99": arm["lateness_p99_s"], "drift": arm["drift"],
            "intervals": {
                name: [arm[f"{name}_s"][q]["low"], arm[f"{name}_s"][q]["high"]]
                for name in ("ttft", "tpot") for q in ("p50",) if arm[f"{name}_s"]
            },
        }  # fmt: skip
        self.row(row)
        self.say(line_of(row))
        return row

    def row(self, row: dict[str, Any]) -> None:
        """Keep a result."""
        with self._lock, (self.out / "rows.jsonl").open("a") as into:
            into.write(json.dumps({"at_s": round(time.monotonic() - self.began, 1), **row}) + "\n")

    def page(self, url: str, name: str) -> None:
        """Keep what an engine or router answers."""
        (self.out / "pages").mkdir(exist_ok=True)
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                (self.out / "pages" / name).write_bytes(answer.read())
        except OSError as problem:
            self.say(f"no page {url}: {problem}")

    def pages(self, state: Any, tag: str) -> None:
        """What all processes of a deployment answer, and what status makes of it."""
        for one in state["processes"]:
            if one["role"] == "router":
                self.page(f"{one['url']}/workers", f"workers-{tag}.json")
                continue
            self.page(f"{one['url']}/v1/loads?include=all", f"loads-{one['name']}-{tag}.json")
            self.page(f"{one['url']}/metrics", f"metrics-{one['name']}-{tag}.txt")
            self.page(f"{one['url']}/get_server_info", f"info-{one['name']}-{tag}.json")
        (self.out / "pages" / f"status-{tag}.txt").write_text(
            self.pdctl("status", state["name"], "--once")
        )

    def close(self) -> None:
        """Stop what is left, pack everything but the rows, say what is still on the GPUs."""
        for name in self.names:
            with suppress(Failed):
                self.down(name)
        for command in ("--query-gpu=index,name,driver_version,clocks.sm,memory.used",
                        "--query-compute-apps=pid,used_memory"):  # fmt: skip
            self.say(_smi(command))
        with tarfile.open(self.out / "kept.tar.gz", "w:gz") as pack:
            for path in sorted(self.out.iterdir()):
                if path.name not in ("state", "kept.tar.gz", "rows.jsonl"):
                    pack.add(path, path.name)
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.rmtree(self.out / "state", ignore_errors=True)


def _smi(query: str) -> str:
    try:
        found = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True
        )
    except OSError:
        return "no nvidia-smi"
    return found.stdout.strip().replace("\n", " | ") or "nothing on the GPUs"


def line_of(row: dict[str, Any]) -> str:
    """A load in a line: times in ms, measured / predicted."""
    parts = [f"{row['tag']:>10} {row['layout']:5} {row['rate']:6g}/s {row['isl']:>6}/{row['osl']}"]
    for name in FIGURES:
        predicted, measured = row.get(name, (None, None))
        if predicted and measured:
            off = f"{100 * (predicted / measured - 1):+.0f} %"
            parts.append(f"{name} {1e3 * measured:.4g}/{1e3 * predicted:.4g} {off}")
    late = 1e3 * (row["late_p99"] or 0)
    parts.append(f"n {row['requests']} failed {row['failed']} late {late:.1f}")
    return "  ".join(parts)


@contextmanager
def rig(options: argparse.Namespace) -> Iterator[Rig]:
    """A run; whatever happens, nothing of it is left behind."""
    run = Rig(options)
    try:
        yield run
    finally:
        run.close()


def urls(state: Any, role: str) -> list[str]:
    """Of the engines of one role."""
    return [p["url"] for p in state["processes"] if p["role"] == role]


def calibrate(
    run: Rig, model: str, name: str, engines: Sequence[str], budget: str, earlier: str
) -> list[str]:
    """--profile of a fresh calibration; of the earlier one, or nothing, where it was refused."""
    where = [word for url in engines for word in ("--url", url)]
    file = run.out / f"{name}-profile.json"
    words = ["calibrate", model, *where, "--budget", budget, "-o", str(file)]
    words += ["--steps", str(run.out / f"{name}-steps.jsonl")]
    try:
        shown = run.pdctl(*words, *(("--with", earlier) if earlier else ()), log=name)
    except Failed as problem:  # it may be of another card than the one that came
        run.say(f"{name}: {problem}")
        shown, earlier = run.pdctl(*words, log=name), ""
    run.say(f"{name}: {shown}")
    found = str(file) if file.exists() else earlier
    return ["--profile", found] if found else []


def together(run: Rig, tracks: Sequence[Callable[[], object]]) -> None:
    """Run tracks side by side; one that fails says so and leaves the others alone."""

    def safely(track: Callable[[], object]) -> None:
        try:
            track()
        except Exception as problem:  # noqa: BLE001  # whatever it is, the others go on
            run.say(f"FAILED: {type(problem).__name__} {problem}")

    with ThreadPoolExecutor(len(tracks)) as pool:
        list(pool.map(safely, tracks))


def options_of(description: str | None, **more: str | None) -> argparse.Namespace:
    """The command line of a run: its Options, and what `more` names with its default."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("out", type=Path)
    parser.add_argument("model", help="a directory with config.json, or a bundled name")
    parser.add_argument("--minutes", type=float, default=9.5)
    parser.add_argument("--args", default="", help="SGLang flags of every engine")
    parser.add_argument("--transfer", default="auto")
    parser.add_argument("--engine", default="sglang", help="sim: rehearse this script")
    for name, default in more.items():
        parser.add_argument(f"--{name}", default=default)
    return parser.parse_args()
