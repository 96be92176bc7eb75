"""A small network over a class token and patches, and samples that are such patches."""

import torch
from torch import nn


class Classifier(nn.Module):
    """Two blocks over a class token and 10 patches, which are the samples' own."""

    def __init__(self, norm_first=False):
        super().__init__()
        options = {"dropout": 0.0, "batch_first": True, "norm_first": norm_first}
        layers = [nn.TransformerEncoderLayer(8, 2, 8, **options) for _ in "ab"]
        self.blocks = nn.ModuleList(layers)
        self.cls_token = nn.Parameter(torch.full((1, 1, 8), 0.5))
        self.seen = []
        layers[0].register_forward_hook(lambda _, inputs, __: self.seen.append(inputs[0]))

    def forward(self, samples):
        x = torch.stack([sample["image"] for sample in samples])
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x)
        return [{"logits": logits} for logits in x[:, 0]]


def data(batch_size):
    images = torch.arange(6 * 10 * 8).reshape(6, 10, 8) / 100
    samples = [{"image": image} for image in images]
    return [samples[start : start + batch_size] for start in range(0, 6, batch_size)]
