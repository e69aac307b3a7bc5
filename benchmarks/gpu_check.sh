#!/usr/bin/env bash
# Check a machine with a CUDA device in ten minutes: CUDA tests, speed of a step, scores of short runs.
#
#     benchmarks/gpu_check.sh [--dry-run] [--list] [RESULTS]
#
# RESULTS    Directory of the results. Default: benchmarks/results/gpu-check; with --dry-run a temporary directory.
# --dry-run  Run phases of every kind on the CPU with tiny sizes, to test this script. DRY_RUN=1 does the same.
# --list     Print the phases with their seconds and commands, and stop.
#
# Environment variables:
#   PYTHON         Python interpreter, 3.11 or newer. Default: python3. sslx need not be installed.
#   DATA           Directory of recordings for the scores. Default: the embedded speech data.
#   LABEL_PATTERN  Regular expression over their file names. Default: that of the Free Spoken Digit Dataset.
#   TEST_GROUPS    JSON list of the groups held out for the test. Default: two of that data set's speakers.
#   TOTAL_SECONDS  Time limit of all phases together. Default: 590.
#   COMMIT         Commit of the code, if the directory is not a git repository.
#
# Every phase has a time budget of its own. Time that a phase leaves is available to the phases after it. A phase that
# fails does not stop the others. environment.json, tests.json, speed-DEVICE.json, evidence.json and summary.json are
# updated while the phases run, so an interrupted check keeps the results of what has run. log.txt has all output.
# The exit status is 0 if all phases passed. The goals are printed beside the measurements, and not asserted.

set -uo pipefail # without -e: a phase that fails must not stop the others

# Tests of the code that has not run on a GPU since the last GPU measurement. They run first. The section of
# benchmarks/README.md with that title lists the same files.
NEW_CODE_TESTS=(
    tests/core/test_cuda_graph.py
    tests/core/test_double_backward.py
    tests/core/test_attention.py
    tests/core/test_compiled_step.py
)
SHAPES=(speech HIGGS genomics)
OBJECTIVES=(metamae mae)
STEPS=3000
WORKERS=4 # processes of tests-cuda_graph, which starts whole runs, if pytest-xdist and 8 CPU cores are available

DEFAULT_TOTAL=590
budget_of() { # seconds that a phase has in any case; their sum is less than DEFAULT_TOTAL
    case $1 in
        environment) echo 20 ;;
        tests-cuda_graph) echo 90 ;;
        tests-compiled_step) echo 40 ;;
        tests-*) echo 25 ;;
        speed-speech) echo 90 ;;
        speed-*) echo 60 ;;
        evidence-*) echo 75 ;;
    esac
}

usage() { sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

die() {
    echo "gpu_check.sh: $1" >&2
    exit 2
}

absolute() { case $1 in /*) echo "$1" ;; *) echo "$PWD/$1" ;; esac }

dry_run=${DRY_RUN:-0} list=0 results=
for argument in "$@"; do
    case $argument in
        --dry-run) dry_run=1 ;;
        --list) list=1 ;;
        -h | --help)
            usage
            exit 0
            ;;
        -*) die "unknown option $argument; see --help" ;;
        *)
            [ -z "$results" ] || die "more than one RESULTS: $results, $argument"
            results=$(absolute "$argument")
            ;;
    esac
done
case $dry_run in 0 | 1) ;; *) die "DRY_RUN must be 0 or 1, not $dry_run" ;; esac
total=${TOTAL_SECONDS:-$DEFAULT_TOTAL}
[[ $total =~ ^[1-9][0-9]*$ ]] || die "TOTAL_SECONDS must be a number of seconds, not $total"
data=${DATA:-}
if [ -n "$data" ]; then
    [ -d "$data" ] || die "DATA is not a directory: $data"
    data=$(absolute "$data")
fi
label_pattern=${LABEL_PATTERN:-'(?P<label>\d)_(?P<group>[a-z]+)_\d+'}
test_groups=${TEST_GROUPS-'["theo", "nicolas"]'}
python=${PYTHON:-python3}
case $python in */*) python=$(absolute "$python") ;; esac

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || exit 2
cd "$root" || exit 2

device=cuda
if [ "$dry_run" = 1 ]; then
    device=cpu
    NEW_CODE_TESTS=(tests/core/test_cuda_graph.py tests/core/test_attention.py)
    SHAPES=(speech)
fi

# Every CUDA test states "needs CUDA" as the reason for which it is skipped elsewhere.
other_tests=()
if [ "$dry_run" = 0 ]; then
    while IFS= read -r file; do
        case " ${NEW_CODE_TESTS[*]} " in *" $file "*) ;; *) other_tests+=("$file") ;; esac
    done < <(grep -rl --include='test_*.py' --exclude=test_gpu_check.py 'needs CUDA' tests | sort)
fi

phases=(environment)
for file in "${NEW_CODE_TESTS[@]}"; do
    name=${file##*/test_}
    phases+=("tests-${name%.py}")
done
[ ${#other_tests[@]} -eq 0 ] || phases+=(tests-other)
for shape in "${SHAPES[@]}"; do phases+=("speed-$shape"); done
for objective in "${OBJECTIVES[@]}"; do phases+=("evidence-$objective"); done

work=/tmp/WORK
workers=()
command_of() { # set the array `command` to the command of a phase
    local name=${1#*-} files=()
    case $1 in
        environment)
            command=("$python" -m benchmarks.gpu_check environment "$results")
            [ "$dry_run" = 0 ] || command+=(--dry-run)
            ;;
        tests-*)
            if [ "$name" = other ]; then
                files=("${other_tests[@]}")
            else
                for file in "${NEW_CODE_TESTS[@]}"; do
                    case $file in *"/test_$name.py") files=("$file") ;; esac
                done
            fi
            command=("$python" -m pytest -q --tb=short -p no:cacheprovider -p benchmarks.gpu_check)
            command+=(--gpu-check-results "$results/tests.json")
            if [ "$dry_run" = 1 ]; then
                command+=(--gpu-check-dry-run)
            else
                command+=(-m "") # slow tests too
                [ "$name" != cuda_graph ] || command+=("${workers[@]}")
            fi
            command+=("${files[@]}")
            ;;
        speed-*)
            command=("$python" benchmarks/speed.py --device "$device" --parts steps --shapes "$name" --no-page)
            command+=(--out "$results" --cache "$work/speed")
            if [ "$dry_run" = 1 ]; then
                command+=(--tiny --repeats 1 --variants bf16)
            else
                command+=(--variants plain bf16 "bf16 compiled")
            fi
            ;;
        evidence-*)
            command=("$python" -m ssl_core.cli run --objective "$name" --modality speech --device "$device")
            command+=(--out "$work/runs/$name")
            if [ "$dry_run" = 1 ]; then
                command+=(--set train.steps=2)
            else
                command+=(--set "train.steps=$STEPS")
            fi
            if [ -n "$data" ]; then # the options of benchmarks/grids/fsdd.toml
                command+=(--dataset files --data "$data" --label-pattern "$label_pattern")
                [ -z "$test_groups" ] || command+=(--set "dataset.test_groups=$test_groups")
                command+=(--set "tokenizer.patch=[8, 8]" --set masking.ratio=0.7 --set train.lr=6e-4)
            elif [ "$dry_run" = 1 ]; then
                command+=(--set dataset.n_train=64 --set dataset.n_test=32)
            fi
            ;;
    esac
}

scaled_budget_of() { echo $(($(budget_of "$1") * total / DEFAULT_TOTAL)); }

if [ "$list" = 1 ]; then
    results=${results:-RESULTS}
    for phase in "${phases[@]}"; do
        command_of "$phase"
        printf '%s\t%s\t%s\n' "$phase" "$(scaled_budget_of "$phase")" "${command[*]@Q}"
    done
    exit 0
fi

SECONDS=0
for tool in "$python" timeout; do
    command -v "$tool" >/dev/null || die "$tool is not a program; set PYTHON to a Python interpreter, install coreutils"
done
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "$python is older than Python 3.11: set PYTHON"

work=$(mktemp -d) || exit 2
if [ -z "$results" ]; then
    results=$root/benchmarks/results/gpu-check
    [ "$dry_run" = 0 ] || results=$(mktemp -d)
fi
mkdir -p "$results" || exit 2
for name in environment tests evidence summary speed-cuda speed-cpu; do rm -f "$results/$name.json"; done
: >"$results/log.txt" || exit 2
echo "results: $results"

# The code of this directory takes precedence over an installed sslx; the site directory has its entry points.
export PYTHONPATH="$root:$root/plugins:$work/site${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONUNBUFFERED=1 SSLX_CACHE_DIR="$work/cache" COLUMNS=120
"$python" -m benchmarks.gpu_check site "$work/site" || exit 2
if [ "$dry_run" = 0 ] && [ "$(nproc)" -ge 8 ] && "$python" -c 'import xdist' 2>/dev/null; then
    workers=(-n "$WORKERS")
fi

summary() { "$python" -m benchmarks.gpu_check "$@"; }

phase='' began=0 run=()
interrupted() { # $1: exit status
    trap '' INT TERM HUP
    local pid
    for pid in $(jobs -p); do kill -TERM "$pid" 2>/dev/null; done # `timeout` passes the signal on to the whole phase
    wait
    [ -z "$phase" ] ||
        summary finish "$results" "$phase" --status interrupted --seconds $((SECONDS - began)) "${run[@]}"
    exit "$1"
}
trap 'rm -rf "$work"' EXIT
trap 'interrupted 130' INT
trap 'interrupted 143' TERM
trap 'interrupted 129' HUP

failures=0
for index in "${!phases[@]}"; do
    phase=${phases[index]} began=$SECONDS
    later=0
    for after in "${phases[@]:index+1}"; do later=$((later + $(scaled_budget_of "$after"))); done
    limit=$((total - SECONDS - later))
    ((limit > 0)) || limit=1
    run=()
    case $phase in evidence-*) run=(--run "$work/runs/${phase#*-}") ;; esac
    command_of "$phase"
    summary start "$results" "$phase" --limit "$limit"
    echo "== $phase: ${command[*]@Q}" >>"$results/log.txt"
    timeout -k 3 "$limit" "${command[@]}" >>"$results/log.txt" 2>&1 </dev/null &
    wait "$!"
    code=$?
    summary finish "$results" "$phase" --exit-code "$code" --seconds $((SECONDS - began)) "${run[@]}"
    [ "$code" = 0 ] || failures=$((failures + 1))
done
summary table "$results"
((failures == 0))
