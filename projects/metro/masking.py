"""Masked vertex modelling: joints and vertices that lose the image's features in training.

Source: arXiv 2012.09760. The official code draws the masks while it loads the data;
here the model does, so that they follow ``torch.manual_seed`` as all its other draws.
"""

import torch
from torch import Tensor, nn

MASK_VALUE = 0.01  # of every channel of a masked token, its place in the template included


def draw_masked(num_images: int, num_tokens: int, max_ratio: float) -> Tensor:
    """Choose the tokens to mask, anew for every image: (B, N) bool on the CPU, True = masked.

    Their number is floor(u * max_ratio * N) with u uniform in [0, 1): up to ``max_ratio``, half of
    that on average. Which ones is equally likely.
    """
    counts = (torch.rand(num_images, 1) * max_ratio * num_tokens).floor()
    ranks = torch.rand(num_images, num_tokens).argsort(dim=1).argsort(dim=1)
    return ranks < counts


class TokenMasking(nn.Module):
    """Replaces random tokens by a constant in training; does nothing in evaluation.

    Args:
        num_joints: how many of the tokens, the first ones, are joints. Joints and vertices are
            masked independently.
        max_ratio: bound on the part of the joints, and of the vertices, that is masked.

    Raises:
        ValueError: ``max_ratio`` outside [0, 1].
    """

    def __init__(self, num_joints: int, max_ratio: float = 0.3) -> None:
        super().__init__()
        if not 0 <= max_ratio <= 1:
            raise ValueError(f"max_masked must be in [0, 1], got {max_ratio}")
        self.num_joints = num_joints
        self.max_ratio = max_ratio

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        if not self.training or self.max_ratio == 0:
            return tokens
        num_images, num_tokens, _ = tokens.shape
        groups = (self.num_joints, num_tokens - self.num_joints)
        masked = torch.cat([draw_masked(num_images, n, self.max_ratio) for n in groups], dim=1)
        masked = masked.to(tokens.device, non_blocking=True)
        return tokens.masked_fill(masked[:, :, None], MASK_VALUE)
