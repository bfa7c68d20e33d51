#!/usr/bin/env bash
# usage: install.sh [VENV [MODEL_DIR]]
#
# Real SGLang 0.5.23 on a CPU-only x86-64 Linux machine, for the tests marked real_engine: unmodified
# SGLang, Mooncake's build without CUDA, a small shim (cpu_shim/) and a tiny model (make_model.py).
# Takes 1.5 to 3 minutes and 2.5 GB the first time, a second when nothing has changed.
# PYTHON picks the interpreter the environment is made with.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
home=${PDCTL_REAL_ENGINE:-$HOME/.cache/pdctl/real-engine}
venv=${1:-$home/venv}
model=${2:-$home/model}

mkdir -p "$(dirname "$venv")" "$(dirname "$model")"
exec 9>"$venv.lock"
flock 9 # two runs at once: the second finds the work done

wanted=$(cd "$here" && cat install.sh requirements*.txt cpu_shim/pyproject.toml cpu_shim/*.p* \
    cpu_shim/sgl_kernel/*.py make_model.py | sha256sum | cut -d' ' -f1)
stamp=$venv/.installed-by-pdctl
if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && [ -f "$model/config.json" ]; then
    echo "already there: $venv, $model"
    exit 0
fi

rm -f "$stamp"
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check install -qq "$@"; }
pip --requirement "$here/requirements.txt"
pip --no-deps --requirement "$here/requirements-alone.txt"
pip --no-deps --force-reinstall "$here/cpu_shim"

# Mooncake is linked against it, with or without a device
if ! ldconfig -p | grep -q 'libibverbs\.so\.1'; then
    if [ "$(id -u)" != 0 ]; then
        echo "libibverbs is missing: apt-get install libibverbs1" >&2
        exit 1
    fi
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends libibverbs1
fi

# the model is made beside its place and moved there whole
made=$(mktemp -d "$model.XXXXXX")
trap 'rm -rf "$made"' EXIT
"$venv/bin/python" "$here/make_model.py" "$made"
rm -rf "$model"
chmod 755 "$made"
mv "$made" "$model"
echo "$wanted" >"$stamp"
echo "installed: $venv, $model"
