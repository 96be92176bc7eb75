#!/usr/bin/env bash
# One machine, eight GPUs, eight images each: the published recipe.
# Further arguments go to train_net.py: projects/detr/launch/eight_gpus.sh --resume
set -euo pipefail
root=$(cd "$(dirname "$0")/../../.." && pwd)
python "$root/tools/train_net.py" --config "${CONFIG:-projects/detr/dropkey.yaml}" --num-gpus 8 "$@"
