"""What the paper claims besides accuracy, measured on a trained network: more columns of a CSV."""

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch

from dropkey_core.analysis.entropy import attention_entropy
from dropkey_core.analysis.occlusion import PatchOrder, occluded_forward
from dropkey_core.attention import Expected, MonteCarlo
from dropkey_core.attention.functional import Inference
from dropkey_core.equip import set_drop_ratio, set_inference
from projects.classification.classifier import ClassificationModel
from projects.paper.regimes.judging import Images, batches_of, judge

NAN = float("nan")
MISSING = (30, 50, 70)  # per cent of the patches
NUM_MASKS = 200
# (model) -> None: trains it further with what it is set to, as the paper's second stage does.
Finetune = Callable[[ClassificationModel], None]


class Trial(NamedTuple):
    """A trained network.

    Attributes:
        model: in evaluation mode; a measure leaves it as it was.
        test: its test set.
        finetune: see above.
        seed: of what is drawn.
        drops_keys: whether it was trained with DropKey, without which nothing is to be aligned.
    """

    model: ClassificationModel
    test: Images
    finetune: Finetune
    seed: int
    drops_keys: bool


@torch.no_grad()
def occlusion(trial: Trial) -> dict[str, float]:
    """Top-1 without part of the patches (Table 3), and what that costs.

    The cost is in points. It keeps a network that is better anyway from being called more robust.
    """
    network, (_, labels) = trial.model.network, trial.test
    clean = judge(network, trial.test).top1
    found: dict[str, float] = {}
    for percentage in MISSING:
        order = PatchOrder(trial.seed)
        right = 0
        for pixels, place in batches_of(trial.test):
            order.forget()
            logits = occluded_forward(network, pixels, percentage / 100, order)
            right += int((logits.argmax(1) == labels[place]).sum())
        top1 = 100 * right / len(labels)
        found |= {f"occluded_{percentage}": top1, f"lost_{percentage}": clean - top1}
    return found


def alignment(trial: Trial) -> dict[str, float]:
    """Top-1 and cross entropy with attention as it was on average in training (Table 4).

    By 200 masks, exactly, and after the second stage with nothing dropped. Of a network that was
    trained without DropKey only the latter is there, the others are nan.
    """
    found: dict[str, float] = {}
    ways: dict[str, Inference] = {"monte_carlo": MonteCarlo(NUM_MASKS), "expected": Expected()}
    for name, inference in ways.items():
        found |= {f"{name}_top1": NAN, f"{name}_loss": NAN}
        if trial.drops_keys:
            torch.manual_seed(trial.seed)
            set_inference(trial.model, inference)
            judgement = judge(trial.model.network, trial.test)
            set_inference(trial.model, None)
            found |= {f"{name}_top1": judgement.top1, f"{name}_loss": judgement.loss}
    tuned = copy.deepcopy(trial.model)
    set_drop_ratio(tuned, 0.0)
    trial.finetune(tuned)
    judgement = judge(tuned.eval().network, trial.test)
    return found | {"finetuned_top1": judgement.top1, "finetuned_loss": judgement.loss}


def entropy(trial: Trial) -> dict[str, float]:
    """Entropy of the class token's attention in nats, mean over layers (Figure 4)."""
    layers = attention_entropy(trial.model.network, [x for x, _ in batches_of(trial.test)])
    return {"entropy": sum(layer.mean for layer in layers) / len(layers)}


# By name, as plans list them.
MEASURES: dict[str, Callable[[Trial], dict[str, float]]] = {
    "occlusion": occlusion,
    "alignment": alignment,
    "entropy": entropy,
}
