"""Image classifier with its losses: samples in, losses (training) or logits (evaluation) out.

Shapes: B images of S x S pixels, K = num_classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dropkey_core.analysis.capture import captured_attention
from dropkey_core.engine import UserError, per_total, total_over_processes
from dropkey_core.variants import attention_diversification, self_attention
from projects.classification.mixing import Mixing, mix


class Diversification:
    """Attention diversification loss (arXiv 2303.11126) on the maps of a network's self-attention.

    Attention is computed explicitly for it, at several times the time and memory of the fused path.

    Args:
        weight: of the loss; the paper's is 1.
        threshold: see ``attention_diversification``; the paper's is 2.

    Raises:
        ValueError: a number that is not above 0.
    """

    def __init__(self, weight: float = 1.0, threshold: float = 2.0) -> None:
        for name, number in (("weight", weight), ("threshold", threshold)):
            if not number > 0.0:
                raise ValueError(f"variants.diversification.{name} must be above 0, got {number}")
        self.weight = weight
        self.threshold = threshold

    def __call__(self, network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the network's output for ``images``, and the weighted loss.

        Args:
            network: with self-attention that drops keys, with a ratio of 0 or more. Class
                attention and outlook attention are not judged.
            images: (B, 3, S, S).

        Raises:
            ValueError: no self-attention.
        """
        with captured_attention(network) as maps:
            output = network(images)
        judged = [layer for name in self_attention(network) for layer in maps[name]]
        return output, self.weight * attention_diversification(judged, self.threshold)


class ClassificationModel(nn.Module):
    """A network with its loss.

    Args:
        network: (B, 3, S, S) -> logits (B, K).
        num_classes: K.
        image_size: S.
        label_smoothing: part of each target that is spread over all classes, in [0, 1).
        mixing: makes (images, one-hot targets) of (images, labels) while training, smoothed
            already; see ``build_mixing``.
        diversification: a second loss, on the maps of the network's self-attention.
    """

    # The heads depend on the data: a network fine-tuned on other classes begins them anew.
    reinitialised_on_mismatch = ("network.head.", "network.head_dist.", "network.aux_head.")

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        image_size: int,
        *,
        label_smoothing: float = 0.0,
        mixing: Mixing | None = None,
        diversification: Diversification | None = None,
    ) -> None:
        super().__init__()
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
        self.network = network
        self.num_classes = num_classes
        self.image_size = image_size
        self.label_smoothing = label_smoothing
        self.mixing = mixing
        self.diversification = diversification

    def totals(self, samples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """What a part of ``samples`` must know of all: their number, a scalar ``images``."""
        return {"images": total_over_processes(torch.tensor(len(samples), device=self.device))}

    def forward(
        self, samples: Sequence[dict[str, Any]], totals: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor] | list[dict]:
        """Classify images (eval mode), or judge how they are classified (training mode).

        Args:
            samples: one dict per image. ``image``: float32 (3, S, S), normalised; in training also
                ``label``, an int in [0, K).
            totals: in training, of the batch that these samples are a part of.

        Returns:
            In training ``loss_cls``, the mean cross entropy, and ``loss_diversification`` if it is
            asked for. Else a list with, for each image, ``logits`` (K,) float32.

        Raises:
            UserError: images of another size, a label that there is not, or an odd number of
                images to be mixed.
        """
        images = self.batch(samples)
        if not self.training:
            return [{"logits": logits} for logits in self.network(images).float()]
        losses = self.losses(images, self.labels(samples))
        if totals is None:
            return losses
        share = per_total(torch.tensor(len(samples), device=self.device), totals["images"])
        return {name: share * loss for name, loss in losses.items()}

    def losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The losses of a batch.

        Args:
            images: (B, 3, S, S).
            labels: (B,) int64.
        """
        targets, smoothing = labels, self.label_smoothing
        if self.mixing is not None:
            images, targets = mix(self.mixing, images, labels)  # targets (B, K)
            smoothing = 0.0
        terms = {}
        if self.diversification is None:
            logits = self.network(images)  # (B, K)
        else:
            logits, terms["loss_diversification"] = self.diversification(self.network, images)
        loss = F.cross_entropy(logits.float(), targets, label_smoothing=smoothing)
        return {"loss_cls": loss, **terms}

    def batch(self, samples: Sequence[dict[str, Any]]) -> Tensor:
        """The images of ``samples`` where the network is: (B, 3, S, S) float32."""
        for sample in samples:
            height, width = sample["image"].shape[-2:]
            if (height, width) != (self.image_size, self.image_size):
                raise UserError(
                    f"the model takes images of {self.image_size} x {self.image_size} pixels, got "
                    f"{width} x {height}: make model.image_size and the mappers' image_size equal"
                )
        images = torch.stack([sample["image"] for sample in samples])
        return images.to(self.device, non_blocking=True)

    def labels(self, samples: Sequence[dict[str, Any]]) -> Tensor:
        """The labels of ``samples`` where the network is: (B,) int64."""
        labels = [int(sample["label"]) for sample in samples]
        if unknown := [label for label in labels if not 0 <= label < self.num_classes]:
            raise UserError(
                f"a label must be below model.num_classes={self.num_classes} and not negative, "
                f"got {unknown[0]}: set model.num_classes to the data's number of classes"
            )
        return torch.tensor(labels).to(self.device, non_blocking=True)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device
