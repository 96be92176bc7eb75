#!/usr/bin/env bash
# One machine, one GPU: four images instead of sixteen. Batch and learning rate are a quarter,
# all numbers of steps four times as large: as many images in all and between evaluations.
# Further arguments go to train_net.py: projects/qpic/launch/one_gpu.sh --resume
set -euo pipefail
root=$(cd "$(dirname "$0")/../../.." && pwd)
python "$root/tools/train_net.py" --config "${CONFIG:-projects/qpic/dropkey.yaml}" --num-gpus 1 \
    dataloader.train.total_batch_size=4 optimizer.lr=2.5e-5 train.max_iter=1411200 \
    train.eval_period=47040 train.checkpointer.period=9408 "$@"
