#!/usr/bin/env bash
# One machine, eight GPUs, 64 images each: T2T-ViT's published recipe.
# Further arguments go to train_net.py: projects/classification/launch/eight_gpus.sh --resume
# VOLO, DeiT: CONFIG=projects/classification/volo.yaml projects/classification/launch/eight_gpus.sh
set -euo pipefail
export CONFIG=${CONFIG:-projects/classification/t2t.yaml}
exec "$(dirname "$0")/../../detr/launch/eight_gpus.sh" "$@"
