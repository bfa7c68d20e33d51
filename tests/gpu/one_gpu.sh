#!/usr/bin/env bash
# One GPU, one colocated engine under pdctl: doctor, inspection, up, status under load, calibration,
# two loads, a crash, and nothing left. Prints a short table last.
#
#   tests/gpu/one_gpu.sh OUT MODEL_DIR NAME [RATE ISL OSL]...
#
# MODEL_DIR needs a config.json only: weights are dummies and prompts are token ids. PYTHON has
# SGLang and pdctl's dependencies; SGLANG_ARGS are the engine's flags, UP_ARGS more of `pdctl up`.
set -u
out=$1 model=$2 name=$3
shift 3
python=${PYTHON:-python3}
args=${SGLANG_ARGS:---load-format dummy --skip-tokenizer-init}
export PDCTL_STATE_HOME=${PDCTL_STATE_HOME:-/tmp/pdctl-state} NO_COLOR=1 COLUMNS=120 PYTHONUNBUFFERED=1
mkdir -p "$out"
began=$SECONDS
pdctl() { "$python" -m pdctl "$@"; }
say() { echo "[$((SECONDS - began)) s] $*"; }
finish() {
    pdctl down "$name" --now >/dev/null 2>&1
    cp -r "$PDCTL_STATE_HOME/$name/logs" "$out/$name-logs" 2>/dev/null
}
trap finish EXIT

say "doctor"
pdctl doctor --json >"$out/doctor.json"
pdctl doctor | tail -40
"$python" -c 'from pdctl.inspection.gpus import query_gpus; print(*query_gpus(), sep="\n")' | tee "$out/gpus.txt"

say "up"
pdctl up "$model" --prefill 0 --total 1 --name "$name" --args "$args" ${UP_ARGS:-} -d --json >"$out/$name-up.json" || exit 1
"$python" - "$out/$name-up.json" <<'PY'
import json, sys
state = json.load(open(sys.argv[1]))["data"]
slowest = max(p["ready_after_s"] for p in state["processes"])
print(f"ready after {state['ready_after_s']:.1f} s, slowest process {slowest:.1f} s,",
      f"first request {1e3 * state['first_request_ttft_s']:.0f} ms")
PY
engine=$("$python" -c 'import json,sys; print([p["url"] for p in json.load(open(sys.argv[1]))["data"]["processes"] if p["role"] != "router"][0])' "$out/$name-up.json")
router=$("$python" -c 'import json,sys; print(json.load(open(sys.argv[1]))["data"]["endpoint"])' "$out/$name-up.json")

if [ "${CALIBRATE:-1}" = 1 ]; then
    say "calibrate"
    pdctl calibrate "$model" --url "$engine" --budget "${BUDGET:-150s}" -o "$out/$name-profile.json" 2>"$out/$name-calibrate.err" | tail -40
    tail -5 "$out/$name-calibrate.err"
fi

while [ $# -ge 3 ]; do
    say "load $1 req/s, ISL $2, OSL $3"
    (sleep 10; pdctl status "$name" --once; pdctl status "$name" --once --json >"$out/$name-status-$1.json"
     curl -s "$engine/v1/loads?include=all" >"$out/$name-loads-$1.json"; curl -s "$engine/metrics" >"$out/$name-metrics-$1.txt") &
    pdctl measure "$model" --target "$router" --rate "$1" --isl "$2" --osl "$3" --duration "${DURATION:-25s}" \
        -o "$out/$name-$1-$2-$3.jsonl" 2>>"$out/$name-measure.err" | tail -30
    wait
    shift 3
done

say "SIGKILL of the engine"
pid=$("$python" -c 'import json,sys; print([p["pid"] for p in json.load(open(sys.argv[1]))["data"]["processes"] if p["role"] != "router"][0])' "$out/$name-up.json")
kill -9 "$pid"
for _ in $(seq 100); do
    sleep 2
    pdctl status "$name" --check >/dev/null 2>&1 && { say "serving again"; break; }
done
pdctl logs "$name" --events | tail -15

say "down"
pdctl down "$name" | tail -3
nvidia-smi --query-compute-apps=pid,name,used_memory --format=csv
nvidia-smi --query-gpu=name,driver_version,clocks.sm,memory.used --format=csv,noheader
say "done"
