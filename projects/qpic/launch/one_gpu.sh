#!/usr/bin/env bash
# One machine, one GPU: four images instead of sixteen, so batch and learning rate shrink together.
# Further arguments go to train_net.py: projects/qpic/launch/one_gpu.sh --resume
set -euo pipefail
root=$(cd "$(dirname "$0")/../../.." && pwd)
python "$root/tools/train_net.py" --config "${CONFIG:-projects/qpic/dropkey.yaml}" --num-gpus 1 \
    dataloader.train.total_batch_size=4 optimizer.lr=2.5e-5 train.max_iter=1411200 "$@"
