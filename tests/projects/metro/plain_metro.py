"""The official METRO for the body, written out plainly from its state dict: what ours must equal.

Works on the official names and nothing of ours. Evaluation mode: no dropout, no mask.
"""

import torch


def official_state(num_vertices, num_cells, embed_dims, token_dims, num_layers, ffn_dim):
    """Random weights of all but the backbone, with the names and shapes of the official network.

    Args:
        num_vertices: V, V1, V2.
    """
    full, first, second = num_vertices
    num_tokens = 14 + second
    shapes = {
        "upsampling": (first, second),
        "upsampling2": (full, first),
        "cam_param_fc": (1, 3),
        "cam_param_fc2": (250, second),
        "cam_param_fc3": (3, 250),
    }
    tables = {}
    widths = [2051, *token_dims, 3]
    for i, h in enumerate(embed_dims):
        block = f"trans_encoder.{i}"
        shapes |= {
            f"{block}.bert.img_embedding": (h, widths[i]),
            f"{block}.cls_head": (widths[i + 1], h),
            f"{block}.residual": (widths[i + 1], widths[i]),
            f"{block}.bert.pooler.dense": (h, h),
        }
        tables |= {
            f"{block}.bert.position_embeddings.weight": (num_tokens + 5, h),
            f"{block}.bert.embeddings.word_embeddings.weight": (11, h),
            f"{block}.bert.embeddings.LayerNorm.weight": (h,),
        }
        for j in range(num_layers):
            layer = f"{block}.bert.encoder.layer.{j}"
            shapes |= {
                f"{layer}.attention.self.{role}": (h, h) for role in ("query", "key", "value")
            }
            shapes |= {
                f"{layer}.attention.output.dense": (h, h),
                f"{layer}.attention.output.LayerNorm": (h,),
                f"{layer}.intermediate.dense": (ffn_dim, h),
                f"{layer}.output.dense": (h, ffn_dim),
                f"{layer}.output.LayerNorm": (h,),
            }
    state = {name: torch.randn(shape) for name, shape in tables.items()}
    for name, shape in shapes.items():
        scale = shape[-1] ** -0.5 if len(shape) > 1 else 1.0
        state[f"{name}.weight"] = torch.randn(shape) * scale
        state[f"{name}.bias"] = torch.randn(shape[0])
    state["conv_learn_tokens.weight"] = torch.randn(num_tokens, num_cells, 1)
    state["conv_learn_tokens.bias"] = torch.randn(num_tokens)
    return state


def predict(state, features, template, num_layers):
    """Camera (B, 3), joints (B, 14, 3), and the meshes, full, finer and coarsest.

    Args:
        features: (B, 2048, h, w), the backbone's map.
        template: (N, 3).
    """
    cells = features.flatten(2)  # (B, C, L)
    image_tokens = torch.einsum("nl,bcl->bnc", state["conv_learn_tokens.weight"][..., 0], cells)
    image_tokens = image_tokens + state["conv_learn_tokens.bias"][:, None]
    tokens = torch.cat([template.expand(len(features), -1, -1), image_tokens], dim=2)
    num_blocks = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("trans_"))
    for i in range(num_blocks):
        tokens = block(state, f"trans_encoder.{i}", tokens, num_layers)
    joints, coarsest = tokens[:, :14], tokens[:, 14:]
    finer = mix_vertices(state, "upsampling", coarsest)
    full = mix_vertices(state, "upsampling2", finer)
    camera = linear(state, "cam_param_fc", coarsest)  # (B, V2, 1)
    camera = linear(state, "cam_param_fc2", camera.transpose(1, 2))  # (B, 1, 250)
    camera = linear(state, "cam_param_fc3", camera)[:, 0]  # (B, 3)
    return camera, joints, [full, finer, coarsest]


def block(state, name, tokens, num_layers):
    table = state[f"{name}.bert.position_embeddings.weight"]
    x = linear(state, f"{name}.bert.img_embedding", tokens) + table[: tokens.shape[1]]
    for j in range(num_layers):
        x = layer(state, f"{name}.bert.encoder.layer.{j}", x)
    return linear(state, f"{name}.cls_head", x) + linear(state, f"{name}.residual", tokens)


def layer(state, name, x, num_heads=4):
    q, k, v = (
        linear(state, f"{name}.attention.self.{role}", x).unflatten(2, (num_heads, -1))
        for role in ("query", "key", "value")
    )
    logits = torch.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5
    attended = torch.einsum("bhqk,bkhd->bqhd", logits.softmax(-1), v).flatten(2)
    attended = linear(state, f"{name}.attention.output.dense", attended)
    x = normalise(state, f"{name}.attention.output.LayerNorm", x + attended)
    hidden = linear(state, f"{name}.intermediate.dense", x)
    hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
    return normalise(
        state, f"{name}.output.LayerNorm", x + linear(state, f"{name}.output.dense", hidden)
    )


def linear(state, name, x):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def mix_vertices(state, name, mesh):
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    return torch.einsum("wv,bvx->bwx", weight, mesh) + bias[:, None]


def normalise(state, name, x):
    centred = x - x.mean(-1, keepdim=True)
    x = centred / (centred.square().mean(-1, keepdim=True) + 1e-12).sqrt()
    return x * state[f"{name}.weight"] + state[f"{name}.bias"]
