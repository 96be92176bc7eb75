#!/usr/bin/env bash
# One machine, one GPU: 30 images instead of 240. Batch and learning rate are an eighth,
# all numbers of steps eight times as large: as many images in all and between evaluations.
# Further arguments go to train_net.py: projects/metro/launch/one_gpu.sh --resume
set -euo pipefail
root=$(cd "$(dirname "$0")/../../.." && pwd)
python "$root/tools/train_net.py" --config "${CONFIG:-projects/metro/dropkey.yaml}" --num-gpus 1 \
    dataloader.train.total_batch_size=30 optimizer.lr=1.25e-5 train.max_iter=2000000 \
    train.eval_period=50000 train.checkpointer.period=10000 "$@"
