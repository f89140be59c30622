#!/usr/bin/env bash
# What to run wherever a CUDA device is at hand: cuda tests, memory checks, gradient checks, benchmarks and a profile.
#
#   scripts/gpu_smoke.sh [FOLDER]     writes a log of each part to FOLDER (build/gpu_smoke)
#
# Ends with 0 where all parts passed, 1 where one failed, 2 where there is no CUDA device, and 3 after an error that
# leaves a device unusable: it then stops at once, for all that follows would fail too.
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
FOLDER=${1:-build/gpu_smoke}
STICKY='illegal memory access|misaligned address|device-side assert|unspecified launch failure|illegal instruction|uncorrectable ECC|CUDA_ERROR_(ILLEGAL|ASSERT|LAUNCH|MISALIGNED)|Xid'
KERNELS=(tests/engine/test_triton_step.py tests/engine/test_perceptron.py)

if [ "$#" -gt 1 ] || [[ "${1:-}" == -* ]]; then
    echo "usage: scripts/gpu_smoke.sh [FOLDER]" >&2
    exit 1
fi
if ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "scripts/gpu_smoke.sh: there is no CUDA device here (torch.cuda.is_available() is False); nothing was run" >&2
    exit 2
fi
mkdir -p "$FOLDER" || exit 1
SUMMARY=$FOLDER/summary.txt
: > "$SUMMARY"
failed=0

say() {
    echo "$1" | tee -a "$SUMMARY"
}

finish() {
    say "logs: $FOLDER"
    exit "$1"
}

# part NAME COMMAND…: run a command, keep its output, and note how it ended
part() {
    local name=$1 log=$FOLDER/$1.log start=$SECONDS status
    shift
    echo "== $name: $*"
    "$@" > "$log" 2>&1
    status=$?
    if [ "$status" -eq 0 ]; then
        say "passed   $name ($((SECONDS - start)) s)"
        return
    fi
    failed=1
    say "FAILED   $name (status $status, $((SECONDS - start)) s): $log"
    tail -n 15 "$log"
    if grep -qE "$STICKY" "$log"; then
        say "stopped: $(grep -m 1 -oE "$STICKY" "$log") in $name leaves the device unusable"
        finish 3
    fi
}

say "$("$PYTHON" -c 'import torch
p = torch.cuda.get_device_properties(0)
print(f"{p.name}, compute capability {p.major}.{p.minor}, {p.multi_processor_count} multiprocessors")')"
part environment "$PYTHON" -c 'import platform, torch, triton, nnlab
print(platform.python_version(), torch.__version__, torch.version.cuda, triton.__version__, nnlab.__version__)'
if command -v nvidia-smi > /dev/null; then
    part card nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,clocks.sm,power.limit,ecc.mode.current --format=csv
fi
part tests env NNLAB_REQUIRE_CUDA=1 "$PYTHON" -m pytest -q -m cuda -p no:cacheprovider
if command -v compute-sanitizer > /dev/null; then
    for check in memcheck racecheck; do
        part "sanitizer-$check" env NNLAB_REQUIRE_CUDA=1 PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
            compute-sanitizer --tool "$check" --error-exitcode 9 --target-processes all \
            "$PYTHON" -m pytest -q -x -m cuda -p no:cacheprovider --timeout=0 "${KERNELS[@]}"
    done
else
    say "left out sanitizer: compute-sanitizer is not installed"
fi
part check "$PYTHON" -m nnlab check --device cuda
part profile "$PYTHON" -m benchmarks.cuda_profile
part benchmarks "$PYTHON" -m benchmarks --device cuda --quick --json "$FOLDER/cuda.json" --markdown "$FOLDER/cuda.md"
finish "$failed"
