#!/usr/bin/env bash
# One machine, one GPU: 128 images instead of 512. Batch and learning rate are a quarter,
# all numbers of steps four times as large: as many images in all and between evaluations.
# Further arguments go to train_net.py: projects/classification/launch/one_gpu.sh --resume
set -euo pipefail
root=$(cd "$(dirname "$0")/../../.." && pwd)
python "$root/tools/train_net.py" --config "${CONFIG:-projects/classification/t2t.yaml}" --num-gpus 1 \
    dataloader.train.total_batch_size=128 optimizer.lr=1.25e-4 train.max_iter=3002400 \
    train.eval_period=50040 train.checkpointer.period=10008 "$@"
