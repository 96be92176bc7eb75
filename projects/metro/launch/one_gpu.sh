#!/usr/bin/env bash
# One machine, one GPU: 30 images instead of 240, so batch and learning rate shrink together.
# Further arguments go to train_net.py: projects/metro/launch/one_gpu.sh --resume
set -euo pipefail
root=$(cd "$(dirname "$0")/../../.." && pwd)
python "$root/tools/train_net.py" --config "${CONFIG:-projects/metro/dropkey.yaml}" --num-gpus 1 \
    dataloader.train.total_batch_size=30 optimizer.lr=1.25e-5 train.max_iter=2000000 "$@"
