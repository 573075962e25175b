#!/usr/bin/env bash
# Everything that a GPU is needed for, in one command: ratios and utilisation (bench/results/gpu-*), the tests marked gpu,
# and the GPU ladder. With --dry it goes through all of it on the CPU with tiny shapes and trains no ladder.
#
#   bench/gpu.sh [--dry] [--rounds N] [--seconds S] [--out FOLDER]
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
dry=no
for argument in "$@"; do [ "$argument" = --dry ] && dry=yes; done
ladder=sweeps/gpu-ladder.toml
failed=()

echo "== ratios and utilisation"
"$python" bench/gpu.py "$@" || failed+=("bench/gpu.py")

echo "== tests on the GPU"
"$python" -m pytest -q -m gpu tests/train/test_cuda.py || failed+=("pytest -m gpu")

echo "== the GPU ladder"
if [ ! -f "$ladder" ]; then
    echo "skipped: there is no $ladder"
elif [ "$dry" = yes ]; then
    echo "skipped: --dry trains no ladder"
else
    "$python" -m scalectl.cli sweep "$ladder" || failed+=("scalectl sweep $ladder")
    "$python" -m scalectl.cli report gpu-ladder > bench/results/gpu-ladder.md || failed+=("scalectl report gpu-ladder")
fi

if [ ${#failed[@]} -gt 0 ]; then
    printf 'failed: %s\n' "${failed[@]}"
    exit 1
fi
echo "done"
