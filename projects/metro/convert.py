"""Weights of the official METRO (microsoft/MeshTransformer) under our names."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from dropkey_core.engine import UserError
from projects.metro.body.skeleton import JOINTS

# What official names become, one after the other. The official ResNet is a Sequential of
# torchvision's children; HRNet has timm's names.
RESNET_CHILDREN = {0: "conv1", 1: "bn1", 4: "layer1", 5: "layer2", 6: "layer3", 7: "layer4"}
OUR_NAMES = (
    (r"trans_encoder\.(\d+)\.bert\.position_embeddings\.weight", r"blocks.\1.position"),
    (r"trans_encoder\.(\d+)\.bert\.img_embedding", r"blocks.\1.embedding"),
    (r"trans_encoder\.(\d+)\.bert\.encoder\.layer\.(\d+)", r"blocks.\1.layers.\2"),
    (r"trans_encoder\.(\d+)\.cls_head", r"blocks.\1.head"),
    (r"trans_encoder\.(\d+)\.residual", r"blocks.\1.shortcut"),
    (r"\.attention\.self\.", ".self_attn."),
    (r"\.attention\.output\.dense", ".self_attn.out_proj"),
    (r"\.attention\.output\.LayerNorm", ".norm1"),
    (r"\.intermediate\.dense", ".linear1"),
    (r"\.output\.dense", ".linear2"),
    (r"\.output\.LayerNorm", ".norm2"),
    (r"conv_learn_tokens", "image_tokens"),
    (r"cam_param_fc\.", "camera_head.mix_axes."),
    (r"cam_param_fc2", "camera_head.mix_vertices"),
    (r"cam_param_fc3", "camera_head.output"),
    (r"^upsampling\.", "upsampling.steps.0."),
    (r"^upsampling2\.", "upsampling.steps.1."),
    (r"^backbone\.", "backbone.body."),
    *(
        (rf"^backbone\.body\.{n}\.", f"backbone.body.{name}.")
        for n, name in RESNET_CHILDREN.items()
    ),
)
# What the official network has but never uses.
UNUSED = re.compile(
    r"trans_encoder\.\d+\.bert\.(embeddings|pooler)\..*|backbone\.(classifier|fc)\..*"
)
HAND_UPSAMPLING = (778, 195)  # MANO's vertices, and those of its coarse mesh


def metro_from_official(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Turn the weights of the official body network into those of ``projects.metro.Metro``.

    Left behind is what the official network has but never uses: embeddings and poolers of its BERT
    layers, and the backbone's classifier; also the rows of the position tables past the last token.
    What is missing or has another shape is told where the weights are loaded. They make sense for
    the body that the official network was trained with: SMPL with METRO's own coarse meshes.

    Args:
        state: the ``state_dict`` of ``METRO_Body_Network``, with an HRNet or ResNet.

    Returns:
        the ``state_dict`` of ours, and what was done, a line each.

    Raises:
        UserError: if these are other weights.
    """
    if "blocks.0.embedding.weight" in state:
        raise UserError("these are weights of this project's METRO already: nothing to convert")
    if "upsampling.weight" not in state:
        raise UserError(
            "these are not the weights of the official METRO body: there is no upsampling.weight"
        )
    if state["upsampling.weight"].shape == HAND_UPSAMPLING:
        raise UserError("these are weights of the official METRO for hands, not for the body")
    num_tokens = len(JOINTS) + state["upsampling.weight"].shape[-1]
    converted: dict[str, Tensor] = {}
    unused = []
    for name, value in state.items():
        if UNUSED.fullmatch(name):
            unused.append(name)
            continue
        ours = our_name(name)
        if ours.endswith(".position"):  # may have more rows than tokens
            value = value[:num_tokens]
        elif ours == "image_tokens.weight":  # a convolution over the cells
            value = value[..., 0]
        converted[ours] = value.clone()  # with a view the whole would be saved
    for query in [name for name in converted if ".self_attn.query." in name]:
        parts = [query.replace(".query.", f".{role}.") for role in ("query", "key", "value")]
        joined = torch.cat([converted.pop(name) for name in parts if name in converted])
        converted[query.replace(".query.", ".in_proj_")] = joined
    said = [f"converted: {len(converted)} tensors"]
    if unused:
        numbers = sum(state[name].numel() for name in unused)
        said.append(
            f"left out, the official network never uses them: {len(unused)} tensors, {numbers:,} "
            f"numbers: {', '.join(unused)}"
        )
    return converted, said


def our_name(official: str) -> str:
    """What a tensor is called in ``Metro``; query, key and value are still apart."""
    for pattern, ours in OUR_NAMES:
        official = re.sub(pattern, ours, official)
    return official
