#!/usr/bin/env bash
# One machine, eight GPUs: the published recipe of a project.
#   tools/launch/eight_gpus.sh projects/detr/dropkey.yaml [key=value ...] [--resume]
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
exec python "$root/tools/train_net.py" --num-gpus 8 --config "$@"
