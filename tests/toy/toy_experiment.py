"""A regression that has every part of an experiment: toy.yaml names them."""

from itertools import chain
from typing import Any, Literal

import torch
from torch import nn

from dropkey_core.engine import UserError, gather_objects, per_total, total_over_processes


class ToyModel(nn.Module):
    """Guesses a record's number from its grey level, with dropout."""

    reinitialised_on_mismatch = ("head",)

    def __init__(
        self, width: int = 4, drop_ratio: float = 0.5, activation: Literal["relu", "tanh"] = "relu"
    ) -> None:
        super().__init__()
        if not 0 <= drop_ratio < 1:
            raise ValueError(f"drop_ratio must be in [0, 1), got {drop_ratio}")
        self.backbone = nn.Linear(3, width)
        self.head = nn.Linear(width, 1)
        self.drop_ratio = drop_ratio
        self.activation = getattr(torch, activation)

    def totals(self, batch):
        return {"images": total_over_processes(torch.tensor(len(batch)))}

    def forward(self, batch, totals=None):
        grey = torch.stack([sample["image"].float().mean((1, 2)) for sample in batch]) / 255
        hidden = self.activation(self.backbone(grey))
        guess = self.head(torch.dropout(hidden, self.drop_ratio, self.training))[:, 0]
        if not self.training:
            return [{"guess": value} for value in guess]
        target = torch.tensor([sample["image_id"] / 5 for sample in batch])
        share = 1 if totals is None else per_total(len(batch), totals["images"])
        errors = guess - target
        return {"loss_l2": share * (errors**2).mean(), "loss_l1": share * errors.abs().mean()}


def records(size: int = 10) -> list[dict[str, Any]]:
    return [{"file_name": f"/nowhere/{number}.jpg", "image_id": number} for number in range(size)]


class ToyMapper:
    def __init__(self, training: bool = True, refuse: int = -1) -> None:
        self.training = training
        self.refuse = refuse

    def __call__(self, record):
        if record["image_id"] == self.refuse:
            raise UserError("the image is truncated")
        image = torch.full((3, 4, 4), record["image_id"] * 20, dtype=torch.uint8)
        if self.training:
            image = image + torch.randint(0, 30, (3, 4, 4), dtype=torch.uint8)
        return {**record, "image": image}


class ToyEvaluator:
    def reset(self):
        self.seen = []

    def process(self, inputs, outputs):
        self.seen += [
            (i["image_id"], o["guess"].item()) for i, o in zip(inputs, outputs, strict=True)
        ]

    def evaluate(self):
        seen = sorted(chain(*gather_objects(self.seen)))
        assert len(seen) == len({number for number, _ in seen}), "a record was seen twice"
        error = sum((guess - number / 5) ** 2 for number, guess in seen)
        return {"bbox": {"AP": -error, "images": len(seen), "per_class": {"grey": -error}}}
