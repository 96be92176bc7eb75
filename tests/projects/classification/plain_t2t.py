"""T2T-ViT restated from the paper over a state dict with the official names, without modules.

Kept apart from the code under test: loops, explicit softmax, float64.
"""

import math

import torch


def plain_t2t(state, images, num_heads, splits):
    """Logits (B, K) and the names of all tensors that were read."""
    state = {name: tensor.double() for name, tensor in state.items()}
    used = set()

    def weights(name):
        used.add(name)
        return state[name]

    def linear(name, x, bias=True):
        return x @ weights(f"{name}.weight").T + (weights(f"{name}.bias") if bias else 0)

    def norm(name, x):
        x = x - x.mean(-1, keepdim=True)
        x = x / torch.sqrt((x**2).mean(-1, keepdim=True) + 1e-5)
        return x * weights(f"{name}.weight") + weights(f"{name}.bias")

    def token_layer(name, x):
        normed = norm(f"{name}.norm1", x)
        if f"{name}.w" in state:
            v, y = performer(name, normed)
            mlp = (f"{name}.mlp.0", f"{name}.mlp.2")
        else:
            v, y = narrowing_attention(f"{name}.attn", normed)
            mlp = (f"{name}.mlp.fc1", f"{name}.mlp.fc2")
        x = v + y
        return x + linear(mlp[1], gelu(linear(mlp[0], norm(f"{name}.norm2", x))))

    def performer(name, x):
        k, q, v = linear(f"{name}.kqv", x).chunk(3, -1)
        w = weights(f"{name}.w")
        phi_k, phi_q = (
            torch.exp(z @ w.T - (z**2).sum(-1, keepdim=True) / 2) / math.sqrt(len(w))
            for z in (k, q)
        )
        kernel = phi_q @ phi_k.transpose(1, 2)  # (B, L, L), what the layer never computes
        return v, linear(f"{name}.proj", kernel @ v / (kernel.sum(-1, keepdim=True) + 1e-8))

    def narrowing_attention(name, x):
        q, k, v = linear(f"{name}.qkv", x, bias=False).chunk(3, -1)
        maps = torch.softmax(q @ k.transpose(1, 2) * x.shape[-1] ** -0.5, -1)
        return v, linear(f"{name}.proj", maps @ v)

    def attention(name, x):
        width = x.shape[-1] // num_heads
        q, k, v = linear(f"{name}.qkv", x, bias=False).chunk(3, -1)
        heads = []
        for h in range(num_heads):
            part = slice(h * width, (h + 1) * width)
            logits = q[..., part] @ k[..., part].transpose(1, 2) * width**-0.5
            heads.append(torch.softmax(logits, -1) @ v[..., part])
        return linear(f"{name}.proj", torch.cat(heads, -1))

    x = images.double()
    for i, split in enumerate(splits):
        tokens = patches(x, *split)
        if i < len(splits) - 1:
            tokens = token_layer(f"tokens_to_token.attention{i + 1}", tokens)
            side = math.isqrt(tokens.shape[1])
            x = tokens.transpose(1, 2).reshape(len(x), -1, side, side)
    x = linear("tokens_to_token.project", tokens)
    x = torch.cat([weights("cls_token").expand(len(x), 1, -1), x], 1) + weights("pos_embed")
    for i in range(len({name.split(".")[1] for name in state if name.startswith("blocks.")})):
        x = x + attention(f"blocks.{i}.attn", norm(f"blocks.{i}.norm1", x))
        hidden = gelu(linear(f"blocks.{i}.mlp.fc1", norm(f"blocks.{i}.norm2", x)))
        x = x + linear(f"blocks.{i}.mlp.fc2", hidden)
    return linear("head", norm("norm", x)[:, 0]), used


def gelu(x):
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def patches(x, kernel, stride, padding):
    """(B, C, S, S) -> (B, L, C * kernel^2): channels first, then rows and columns of the patch."""
    side = x.shape[-1] + 2 * padding
    padded = x.new_zeros(*x.shape[:2], side, side)
    padded[..., padding : side - padding, padding : side - padding] = x
    starts = range(0, side - kernel + 1, stride)
    return torch.stack(
        [padded[..., i : i + kernel, j : j + kernel].flatten(1) for i in starts for j in starts], 1
    )
