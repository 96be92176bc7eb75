#!/usr/bin/env bash
# One machine, one GPU: the published batch of 64 does not fit. Batch and learning rate are an eighth,
# all numbers of steps eight times as large: as many images in all and between evaluations.
# Further arguments go to train_net.py: projects/detr/launch/one_gpu.sh --resume
set -euo pipefail
root=$(cd "$(dirname "$0")/../../.." && pwd)
python "$root/tools/train_net.py" --config "${CONFIG:-projects/detr/dropkey.yaml}" --num-gpus 1 \
    dataloader.train.total_batch_size=8 optimizer.lr=1.25e-5 train.max_iter=7392960 \
    train.eval_period=147840 train.checkpointer.period=40000 "$@"
