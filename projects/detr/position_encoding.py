"""Sine position encoding of a feature map (DETR, arXiv 2005.12872, A.4)."""

import math

import torch
from torch import Tensor, nn

# Of a side of the image: the shortest wave that tells boxes apart. Cells of a small map are as far
# apart as waves of the whole side, the published ones, hardly notice.
SHORTEST_WAVE = 0.25


class SinePositionEncoding(nn.Module):
    """Fixed two-dimensional sine encoding, normalised to the unpadded part of each image.

    The first half of the channels encodes the row, the second half the column; within a half,
    sines and cosines alternate with wavelengths from 2 pi to ``temperature`` * 2 pi.

    Args:
        embed_dim: number of channels D, divisible by 4.
        temperature: ratio of the longest wavelength to the shortest.

    Raises:
        ValueError: if ``embed_dim`` is not divisible by 4.
    """

    def __init__(self, embed_dim: int, temperature: float = 10_000.0) -> None:
        super().__init__()
        if embed_dim % 4:
            raise ValueError(f"embed_dim must be divisible by 4, got {embed_dim}")
        channels = torch.arange(embed_dim // 4, dtype=torch.float32)
        wavelengths = temperature ** (channels * 4 / embed_dim)
        self.register_buffer("wavelengths", wavelengths, persistent=False)

    def forward(self, padding_mask: Tensor) -> Tensor:
        """Encode every cell.

        Args:
            padding_mask: (B, h, w) bool, True = padding.

        Returns:
            (B, h, w, D) float32; cells under padding hold values nobody should read.
        """
        inside = ~padding_mask
        rows = inside.cumsum(1, dtype=torch.float32)  # 1-based position among unpadded cells
        columns = inside.cumsum(2, dtype=torch.float32)
        rows = rows / (rows[:, -1:, :] + 1e-6) * (2 * math.pi)
        columns = columns / (columns[:, :, -1:] + 1e-6) * (2 * math.pi)
        return torch.cat([self._waves(rows), self._waves(columns)], dim=-1)

    def of_coordinates(self, coordinates: Tensor) -> Tensor:
        """Encode fractions of the image's height or width, (...,) -> (..., D / 2).

        Wavelengths are from ``SHORTEST_WAVE`` to ``temperature`` times as much, in these fractions.
        """
        return self._waves(coordinates * (2 * math.pi / SHORTEST_WAVE))

    def _waves(self, position: Tensor) -> Tensor:
        angles = position[..., None] / self.wavelengths  # (B, h, w, D/4)
        return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)  # (B, h, w, D/2)
