#!/usr/bin/env bash
# One machine, eight GPUs, two images each: the published recipe. Everything else is DETR's script.
# Further arguments go to train_net.py: projects/qpic/launch/eight_gpus.sh --resume
set -euo pipefail
export CONFIG=${CONFIG:-projects/qpic/dropkey.yaml}
exec "$(dirname "$0")/../../detr/launch/eight_gpus.sh" "$@"
