#!/usr/bin/env bash
# One machine, eight GPUs, thirty images each: the published recipe.
# Further arguments go to train_net.py: projects/metro/launch/eight_gpus.sh --resume
set -euo pipefail
root=$(cd "$(dirname "$0")/../../.." && pwd)
python "$root/tools/train_net.py" --config "${CONFIG:-projects/metro/dropkey.yaml}" --num-gpus 8 "$@"
