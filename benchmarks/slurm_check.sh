#!/bin/bash
# sslx on a real Slurm: installs Debian's packages, starts a cluster of one node, and checks that
#   1. a job that gets the time-out signal saves, is requeued, and ends with the weights of an undisturbed run, bit for bit;
#   2. sslx compare --launcher slurm runs its cells as an array.
# Run it as root in a container or virtual machine; it changes /etc/munge only by the package's own installation.
#   PYTHON=python SLURM_CHECK_TIMEOUT=1 benchmarks/slurm_check.sh
# With SLURM_CHECK_TIMEOUT=1 the signal comes from the time limit of the job (some ten minutes); by default scancel sends it
# as soon as the run trains. PYTHON is an interpreter with sslx and submitit.
set -euo pipefail
python=${PYTHON:-python}
work=${SLURM_CHECK_DIR:-$(mktemp -d -t slurm-check-XXXX)}
mkdir -p "$work"/{state,spool,log}
export SLURM_CONF=$work/slurm.conf SSLX_CACHE_DIR=${SSLX_CACHE_DIR:-$work/cache} OMP_NUM_THREADS=1 NO_COLOR=1

if ! command -v slurmctld >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends slurm-wlm munge >"$work/log/apt" 2>&1
fi

node=$(hostname -s)
cat >"$SLURM_CONF" <<CONF
ClusterName=check
SlurmctldHost=$node(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=cred_expire=15
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
SlurmctldLogFile=$work/log/slurmctld
SlurmdLogFile=$work/log/slurmd
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
JobRequeue=1
NodeName=$node NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=main Nodes=$node Default=YES MaxTime=INFINITE State=UP
CONF

finish() {
    for name in slurmd slurmctld; do
        [ -f "$work/$name.pid" ] && kill "$(cat "$work/$name.pid")" 2>/dev/null || true
    done
    [ -n "${munged:-}" ] && kill "$munged" 2>/dev/null || true
}
trap finish EXIT
if ! munge -n >/dev/null 2>&1; then
    mkdir -p /run/munge && chown munge:munge /run/munge
    setpriv --reuid=munge --regid=munge --init-groups munged --foreground 2>"$work/log/munged" &
    munged=$!
    for _ in $(seq 50); do munge -n >/dev/null 2>&1 && break; sleep 0.2; done
fi
slurmctld -f "$SLURM_CONF"
slurmd -f "$SLURM_CONF" -N "$node"
for _ in $(seq 150); do [ "$(sinfo -h -o %T 2>/dev/null)" = idle ] && break; sleep 0.2; done
sinfo --version
sinfo

sslx() { "$python" -m ssl_core.cli "$@"; }
steps=(--steps "${SLURM_CHECK_STEPS:-400}")
run=(run --objective mae --modality tabular --device cpu --set train.compile=off --set train.log_every=10
     --set encoder.dropout=0.1 --set encoder.dim=32 --set encoder.depth=2 --set encoder.heads=2 --set evaluate.figures=false)
cd "$work"
if [ -n "${SLURM_CHECK_TIMEOUT:-}" ]; then limit=(--time 5m --grace 60); else limit=(--time 60m); fi

echo "== a job that is timed out"
submitted=$(sslx submit --cpus 1 "${limit[@]}" -- "${run[@]}" "${steps[@]}" --out stopped 2>&1 | tail -1)
echo "$submitted"
job=$(echo "$submitted" | sed 's/submitted job \([0-9]*\).*/\1/')
if [ -z "${SLURM_CHECK_TIMEOUT:-}" ]; then
    until [ "$(cat stopped/metrics.jsonl 2>/dev/null | wc -l)" -ge 5 ]; do sleep 0.2; done
    scancel --signal=USR2 "$job"
fi
while squeue -h -j "$job" -o '%i %T %r' 2>/dev/null | grep -q .; do sleep 2; done
grep -hE 'Caught signal|^starting|stopped by|Requeued' stopped.job/"$job"_0_log.out | sed "s#$work#.#g; s#$python#python#g"
[ "$(grep -c '^starting' stopped.job/"$job"_0_log.out)" -ge 2 ] || { echo "FAILED: it was not requeued"; exit 1; }

echo "== the same run undisturbed"
sslx "${run[@]}" "${steps[@]}" --out whole >/dev/null 2>&1
"$python" - <<'PY'
from pathlib import Path
import torch
from safetensors.torch import load_file
one, two = (load_file(max(Path(name).glob("checkpoints/step-*/model.safetensors"))) for name in ("whole", "stopped"))
assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
print(f"{len(one)} tensors, {sum(map(torch.numel, one.values())):,} numbers: equal to the bit")
PY

echo "== a comparison as an array"
sslx compare --modality tabular --objectives mae,shed --seeds 2 --steps 20 --device cpu --set evaluate.figures=false \
    --launcher slurm --cpus 1 --time 30m --out grid >grid.out 2>&1 &
compare=$!
until squeue -h -r -o '%i %j %T' 2>/dev/null | grep -q sslx-compare; do kill -0 $compare || break; sleep 0.2; done
squeue -h -r -o '%i %j %T'
wait $compare || { cat grid.out; exit 1; }
grep -E 'runs in|mae|shed' grid.out | head -8
echo "== all well"
