#!/usr/bin/env bash
# One machine, eight GPUs, thirty images each: the published recipe. The rest is DETR's script.
# Further arguments go to train_net.py: projects/metro/launch/eight_gpus.sh --resume
set -euo pipefail
export CONFIG=${CONFIG:-projects/metro/dropkey.yaml}
exec "$(dirname "$0")/../../detr/launch/eight_gpus.sh" "$@"
