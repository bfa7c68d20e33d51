#!/usr/bin/env bash
# Run a command beside a pdctl that was installed as a wheel, its simulator compiled:
#   bash tests/compiled.sh python -m pytest tests/perf_model tests/verdict
#   bash tests/compiled.sh python -m tests.bench plan
# It runs in a folder of its own: the path of a file, of a trace say, has to be absolute.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m pip install -qq --no-deps --target "$folder" .
cp -r tests profiles docs README.md pyproject.toml "$folder"
cd "$folder"
python -c 'from pdctl import is_compiled; assert is_compiled(), "is there a C compiler?"'
"$@"
