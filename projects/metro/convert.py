"""Weights of the official METRO (microsoft/MeshTransformer) under our names.

Sizes: V vertices of the full mesh, V1 and V2 of the coarser ones, N = 14 + V2 tokens, L cells of
the feature map.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dropkey_core.attention import MultiheadAttention
from dropkey_core.engine import UserError
from dropkey_core.engine.errors import listed
from projects.metro.backbone import Backbone
from projects.metro.body.skeleton import JOINTS
from projects.metro.encoder import EncoderBlock, PostNormLayer
from projects.metro.metro import CameraHead, Upsampling

# What our names become officially, one after the other.
OFFICIAL_NAMES = (
    (r"blocks\.(\d+)\.position", r"trans_encoder.\1.bert.position_embeddings.weight"),
    (r"blocks\.(\d+)\.embedding", r"trans_encoder.\1.bert.img_embedding"),
    (r"blocks\.(\d+)\.head", r"trans_encoder.\1.cls_head"),
    (r"blocks\.(\d+)\.shortcut", r"trans_encoder.\1.residual"),
    (r"blocks\.(\d+)\.layers\.(\d+)", r"trans_encoder.\1.bert.encoder.layer.\2"),
    (r"\.self_attn\.out_proj", ".attention.output.dense"),
    (r"\.norm1", ".attention.output.LayerNorm"),
    (r"\.linear1", ".intermediate.dense"),
    (r"\.linear2", ".output.dense"),
    (r"\.norm2", ".output.LayerNorm"),
    (r"image_tokens", "conv_learn_tokens"),
    (r"camera_head\.mix_axes", "cam_param_fc"),
    (r"camera_head\.mix_vertices", "cam_param_fc2"),
    (r"camera_head\.output", "cam_param_fc3"),
    (r"upsampling\.steps\.0", "upsampling"),
    (r"upsampling\.steps\.1", "upsampling2"),
    (r"backbone\.body\.", "backbone."),
)
# The official ResNet is a Sequential of torchvision's children; HRNet has timm's names.
RESNET_PLACES = {"conv1": "0", "bn1": "1", **{f"layer{i}": str(i + 3) for i in range(1, 5)}}
LAYER = re.compile(r"trans_encoder\.(\d+)\.bert\.encoder\.layer\.(\d+)\.")
HRNET_WIDTH = "backbone.stage2.0.branches.0.0.conv1.weight"
RESNET50_STAGE = "backbone.4.0.conv1.weight"
COUNTER = ".num_batches_tracked"  # of batch norms: nothing reads it, old checkpoints lack it

# What the official network has but never uses.
UNUSED = re.compile(
    r"trans_encoder\.\d+\.bert\.(embeddings|pooler)\..*|backbone\.(classifier|fc)\..*"
)
HAND_UPSAMPLING = (778, 195)  # MANO's vertices, and those of its coarse mesh
NUM_SHOWN = 5  # names that an error lists


class Sizes(NamedTuple):
    """What the shapes of official weights tell of the network."""

    vertices: tuple[int, ...]  # V, V1, V2
    num_cells: int  # L
    input_dims: tuple[int, ...]  # width of the tokens that enter each block
    embed_dims: tuple[int, ...]  # width of each block's layers
    ffn_dim: int
    num_layers: int  # of a block
    backbone: str  # its name for ``Backbone``


def metro_from_official(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Turn the weights of the official body network into those of ``projects.metro.Metro``.

    Left behind is what the official network has but never uses: embeddings and poolers of its BERT
    layers, and the backbone's classifier; also the rows of the position tables past the last token.
    The weights make sense for the body that the official network was trained with: SMPL with
    METRO's own coarse meshes.

    Args:
        state: the ``state_dict`` of ``METRO_Body_Network``, with an HRNet or ResNet-50.

    Returns:
        the ``state_dict`` of ours, and what was done, a line each.

    Raises:
        UserError: if these are other weights, or some are missing or have another shape.
    """
    sizes = official_sizes(state)
    wanted = tensors_of_ours(sizes)
    names = {ours: official_names(ours, sizes.backbone) for ours in wanted}
    found = in_our_shapes(state, wanted, names)
    check(found, wanted, names)
    converted = {ours: joined([found[name] for name in parts]) for ours, parts in names.items()}
    used = {name for parts in names.values() for name in parts}
    return converted, report(state, sizes, converted, [name for name in state if name not in used])


def in_our_shapes(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], names: Mapping[str, Sequence[str]]
) -> dict[str, Tensor]:
    """Official weights, where their shapes differ by design in those of ``wanted``."""
    found = dict(state)
    for ours, (name, *_) in names.items():
        if ours.endswith(COUNTER):
            found.setdefault(name, torch.zeros((), dtype=torch.int64))
        elif name in state and ours.endswith(".position"):  # may have more rows than tokens
            found[name] = state[name][: len(wanted[ours])]
        elif name in state and ours == "image_tokens.weight":  # a convolution over the cells
            found[name] = state[name][..., 0]
    return found


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Tensors below each other, as a copy: with a view the whole would be saved."""
    return torch.cat(list(parts)) if len(parts) > 1 else parts[0].clone()


def report(
    state: Mapping[str, Tensor], sizes: Sizes, converted: Mapping[str, Tensor], left: Sequence[str]
) -> list[str]:
    """What was converted and what was left behind, a line each."""
    said = [
        f"converted: {len(converted)} tensors of {sizes.backbone} and {len(sizes.embed_dims)} "
        f"blocks of {sizes.num_layers} layers, for a body of {plain(sizes.vertices)} vertices",
        f"model.backbone={sizes.backbone} model.embed_dims=[{plain(sizes.embed_dims)}] "
        f"model.token_dims=[{plain(sizes.input_dims[1:])}] model.num_layers={sizes.num_layers} "
        f"model.ffn_dim={sizes.ffn_dim} model.image_size={32 * math.isqrt(sizes.num_cells)}",
    ]
    unused = [name for name in left if UNUSED.fullmatch(name)]
    for names, why in (
        (unused, "the official network never uses them"),
        ([name for name in left if name not in unused], "the official network does not have them"),
    ):
        if names:
            numbers = sum(state[name].numel() for name in names)
            said.append(
                f"left out, {why}: {len(names)} tensors, {numbers:,} numbers: {', '.join(names)}"
            )
    return said


def plain(numbers: Sequence[int]) -> str:
    """Numbers with commas between, as a config override takes them."""
    return ",".join(map(str, numbers))


# ---- both networks -------------------------------------------------------------------------------
def official_sizes(state: Mapping[str, Tensor]) -> Sizes:
    """Read the sizes of the official network off its weights."""
    if "blocks.0.embedding.weight" in state:
        raise UserError("these are weights of this project's METRO already: nothing to convert")

    def shape(name: str, num_dimensions: int) -> tuple[int, ...]:
        found = tuple(state[name].shape) if name in state else None
        if found is None or len(found) != num_dimensions:
            what = f"there is no {name}" if found is None else f"{name} has shape {found}"
            raise UserError(f"these are not the weights of the official METRO body: {what}")
        return found

    first = shape("upsampling.weight", 2)
    if first == HAND_UPSAMPLING:
        raise UserError("these are weights of the official METRO for hands, not for the body")
    second = shape("upsampling2.weight", 2)
    places = [match.groups() for match in map(LAYER.match, state) if match]
    blocks = range(1 + max((int(block) for block, _ in places), default=0))
    embeddings = [shape(f"trans_encoder.{i}.bert.img_embedding.weight", 2) for i in blocks]
    ffn = shape("trans_encoder.0.bert.encoder.layer.0.intermediate.dense.weight", 2)
    if HRNET_WIDTH in state:
        backbone = f"hrnet_w{len(state[HRNET_WIDTH])}"
    elif RESNET50_STAGE in state:
        backbone = "resnet50"
    else:
        raise UserError(
            f"these are weights of METRO with an unknown backbone: there is neither {HRNET_WIDTH} "
            f"(HRNet) nor {RESNET50_STAGE} (ResNet-50)"
        )
    return Sizes(
        vertices=(second[0], *first),
        num_cells=shape("conv_learn_tokens.weight", 3)[1],
        input_dims=tuple(input_dim for _, input_dim in embeddings),
        embed_dims=tuple(embed_dim for embed_dim, _ in embeddings),
        ffn_dim=ffn[0],
        num_layers=1 + max(int(layer) for _, layer in places),
        backbone=backbone,
    )


def tensors_of_ours(sizes: Sizes) -> dict[str, Tensor]:
    """Names and shapes of our network of these sizes, on the meta device: without numbers."""
    *_, coarsest = sizes.vertices
    num_tokens = len(JOINTS) + coarsest
    widths = [*sizes.input_dims, 3]

    def layer(embed_dim: int) -> PostNormLayer:
        attention = MultiheadAttention(embed_dim, 1, batch_first=True)
        return PostNormLayer(attention, sizes.ffn_dim, dropout=0.0)

    with torch.device("meta"):
        blocks = [
            EncoderBlock(
                width, next_width, num_tokens, [layer(dim) for _ in range(sizes.num_layers)], 0.0
            )
            for width, next_width, dim in zip(
                widths[:-1], widths[1:], sizes.embed_dims, strict=True
            )
        ]
        parts = {
            "backbone": Backbone(sizes.backbone, pretrained=False),
            "image_tokens": nn.Linear(sizes.num_cells, num_tokens),
            "blocks": nn.ModuleList(blocks),
            "camera_head": CameraHead(coarsest),
            "upsampling": Upsampling(sizes.vertices[::-1]),
        }
        return nn.ModuleDict(parts).state_dict()


def official_names(ours: str, backbone: str) -> list[str]:
    """The official names of the tensors that one of ours is, one below the other."""
    name = ours
    for pattern, official in OFFICIAL_NAMES:
        name = re.sub(pattern, official, name)
    if backbone == "resnet50":
        name = re.sub(r"(?<=^backbone\.)\w+", lambda part: RESNET_PLACES[part[0]], name)
    if in_three := re.fullmatch(r"(.*)\.self_attn\.in_proj_(\w+)", name):
        layer, kind = in_three.groups()
        return [f"{layer}.attention.self.{role}.{kind}" for role in ("query", "key", "value")]
    return [name]


def check(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], names: Mapping[str, Sequence[str]]
) -> None:
    """Refuse weights of which some are missing or have another shape than ``wanted`` of ours."""
    missing, misshapen = [], []
    for ours, parts in names.items():
        whole = wanted[ours]
        shape = tuple((whole.chunk(len(parts))[0] if len(parts) > 1 else whole).shape)
        for name in parts:
            if name not in state:
                missing.append(name)
            elif state[name].shape != shape:
                misshapen.append(f"{name} {tuple(state[name].shape)} instead of {shape}")
    problems = [
        f"{kind}: {len(found)} ({listed(found, NUM_SHOWN)})"
        for kind, found in (("missing", missing), ("mis-shaped", misshapen))
        if found
    ]
    if problems:
        raise UserError(f"these weights of the official METRO are damaged; {'; '.join(problems)}")
