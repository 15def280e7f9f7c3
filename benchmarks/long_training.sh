#!/usr/bin/env bash
# Train the recipe beside other work, for as long as the machine is there:
#   benchmarks/long_training.sh [KEY=VALUE ...]   begins, or goes on from where it stopped
#   benchmarks/long_training.sh stop              saves and ends
# One thread at the lowest priority. Its code is a worktree of the commit it began with, so that what
# is changed here does not disturb it; state, scores and log lie in runs/long, which git ignores.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
home=$root/runs/long
if [ "${1:-}" = stop ]; then
  kill -TERM "$(cat "$home/pid")"
  while kill -0 "$(cat "$home/pid")" 2>/dev/null; do sleep 1; done
  tail -n 3 "$home/log"
  exit
fi
if [ -f "$home/pid" ] && kill -0 "$(cat "$home/pid")" 2>/dev/null; then
  echo "it runs already, as process $(cat "$home/pid"): tail -f $home/log" >&2
  exit 2
fi
mkdir -p "$home"
[ -d "$home/code" ] || git -C "$root" worktree add --quiet --detach "$home/code"
[ -f "$home/run/checkpoints/last.ckpt" ] && set -- ckpt_path=last "$@"
cd "$home/code"
PYTHONPATH=$home/code/src OMP_NUM_THREADS=1 setsid nohup nice -n 19 "$root/.venv/bin/python" -m frametx.train \
  experiment=refiner name=run test=false trainer.accelerator=cpu trainer.enable_progress_bar=false \
  paths.runs_dir="$home" paths.corpora_dir="$root/data/corpora" paths.cache_dir="$root/data/cache" "$@" \
  >>"$home/log" 2>&1 </dev/null &
echo $! >"$home/pid"
echo "process $!, scores in $home/run/metrics.csv, log in $home/log"
