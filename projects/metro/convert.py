"""Weights of the official METRO (microsoft/MeshTransformer) under our names.

Sizes: V vertices of the full mesh, V1 and V2 of the coarser ones, N = 14 + V2 tokens, L cells of
the feature map.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dropkey_core.engine import UserError
from projects.metro.backbone import Backbone
from projects.metro.body.skeleton import JOINTS
from projects.metro.metro import CAMERA_DIM

POSITIONS = re.compile(r"trans_encoder\.\d+\.bert\.position_embeddings\.weight")
LAYER = re.compile(r"trans_encoder\.(\d+)\.bert\.encoder\.layer\.(\d+)\.")
HRNET_WIDTH = "backbone.stage2.0.branches.0.0.conv1.weight"
RESNET50_STAGE = "backbone.4.0.conv1.weight"
# The official ResNet is a Sequential of torchvision's children; HRNet has timm's names.
RESNET_PLACES = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
COUNTER = ".num_batches_tracked"  # of batch norms: nothing reads it, old checkpoints lack it

# What the official network has but never uses.
UNUSED = re.compile(
    r"trans_encoder\.\d+\.bert\.(embeddings|pooler)\..*|backbone\.(classifier|fc)\..*"
)
HAND_UPSAMPLING = (778, 195)  # MANO's vertices, and those of its coarse mesh
NUM_SHOWN = 5  # names that an error lists


class Origin(NamedTuple):
    """Where a tensor of ours comes from.

    Attributes:
        ours: its name.
        official: the names of the official tensors that it is, one below the other.
        shape: of each of them.
    """

    ours: str
    official: tuple[str, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Sizes:
    """What the shapes of official weights tell of the network.

    Attributes:
        vertices: V, V1, V2.
        num_cells: L.
        input_dims: width of the tokens that enter each block.
        embed_dims: width of each block's layers.
        ffn_dim: hidden width of the feed-forward networks.
        num_layers: layers of a block.
        backbone: its name for ``Backbone``.
    """

    vertices: tuple[int, ...]
    num_cells: int
    input_dims: tuple[int, ...]
    embed_dims: tuple[int, ...]
    ffn_dim: int
    num_layers: int
    backbone: str

    @property
    def num_tokens(self) -> int:
        """N."""
        return len(JOINTS) + self.vertices[-1]


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
    origins = [*origins_of_heads(sizes), *origins_of_blocks(sizes), *origins_of_backbone(sizes)]
    # A position table may be longer than there are tokens.
    trimmed = {
        name: tensor[: sizes.num_tokens] if POSITIONS.fullmatch(name) else tensor
        for name, tensor in state.items()
    }
    check(trimmed, origins)
    converted = {origin.ours: gathered(trimmed, origin) for origin in origins}
    used = {name for origin in origins for name in origin.official}
    return converted, report(state, sizes, converted, [name for name in state if name not in used])


def gathered(state: Mapping[str, Tensor], origin: Origin) -> Tensor:
    """A tensor of ours from what it was in the official network."""
    first = origin.official[0]
    if first not in state:  # a counter, see ``check``
        return torch.zeros(origin.shape, dtype=torch.int64)
    if origin.ours == "image_tokens.weight":
        return state[first][..., 0].clone()  # a convolution's kernel of one cell
    if len(origin.official) == 1:
        return state[first].clone()  # not a view, with which the whole would be saved
    return torch.cat([state[name] for name in origin.official])


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


# ---- what the official network looks like --------------------------------------------------------
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


def linear(ours: str, official: str, *shape: int) -> Iterator[Origin]:
    """Weight of ``shape`` and bias of a linear map; of a norm if there is one number only."""
    yield Origin(f"{ours}.weight", (f"{official}.weight",), shape)
    yield Origin(f"{ours}.bias", (f"{official}.bias",), shape[:1])


def origins_of_heads(sizes: Sizes) -> Iterator[Origin]:
    """What comes before and after the transformer."""
    full, first, second = sizes.vertices
    # A convolution whose channels are the cells: a linear map over them.
    yield from linear("image_tokens", "conv_learn_tokens", sizes.num_tokens, sizes.num_cells, 1)
    yield from linear("camera_head.mix_axes", "cam_param_fc", 1, 3)
    yield from linear("camera_head.mix_vertices", "cam_param_fc2", CAMERA_DIM, second)
    yield from linear("camera_head.output", "cam_param_fc3", 3, CAMERA_DIM)
    yield from linear("upsampling.steps.0", "upsampling", first, second)
    yield from linear("upsampling.steps.1", "upsampling2", full, first)


def origins_of_blocks(sizes: Sizes) -> Iterator[Origin]:
    """The transformer."""
    output_dims = [*sizes.input_dims[1:], 3]
    widths = zip(sizes.input_dims, sizes.embed_dims, output_dims, strict=True)
    for i, (input_dim, embed_dim, output_dim) in enumerate(widths):
        ours, official = f"blocks.{i}", f"trans_encoder.{i}"
        table = f"{official}.bert.position_embeddings.weight"
        yield Origin(f"{ours}.position", (table,), (sizes.num_tokens, embed_dim))
        yield from linear(
            f"{ours}.embedding", f"{official}.bert.img_embedding", embed_dim, input_dim
        )
        yield from linear(f"{ours}.head", f"{official}.cls_head", output_dim, embed_dim)
        yield from linear(f"{ours}.shortcut", f"{official}.residual", output_dim, input_dim)
        for j in range(sizes.num_layers):
            layer = f"{official}.bert.encoder.layer.{j}"
            yield from origins_of_layer(f"{ours}.layers.{j}", layer, embed_dim, sizes.ffn_dim)


def origins_of_layer(ours: str, official: str, embed_dim: int, ffn_dim: int) -> Iterator[Origin]:
    """One layer: its attention, two norms and two linear maps."""
    attention = f"{official}.attention"
    projections = [f"{attention}.self.{role}" for role in ("query", "key", "value")]
    for kind, shape in (("weight", (embed_dim, embed_dim)), ("bias", (embed_dim,))):
        names = tuple(f"{projection}.{kind}" for projection in projections)
        yield Origin(f"{ours}.self_attn.in_proj_{kind}", names, shape)
    yield from linear(
        f"{ours}.self_attn.out_proj", f"{attention}.output.dense", embed_dim, embed_dim
    )
    yield from linear(f"{ours}.norm1", f"{attention}.output.LayerNorm", embed_dim)
    yield from linear(f"{ours}.linear1", f"{official}.intermediate.dense", ffn_dim, embed_dim)
    yield from linear(f"{ours}.linear2", f"{official}.output.dense", embed_dim, ffn_dim)
    yield from linear(f"{ours}.norm2", f"{official}.output.LayerNorm", embed_dim)


def origins_of_backbone(sizes: Sizes) -> Iterator[Origin]:
    """The backbone, which is timm's here."""
    with torch.device("meta"):  # names and shapes only
        backbone = Backbone(sizes.backbone, pretrained=False)
    for name, tensor in backbone.body.state_dict().items():
        official = name
        if sizes.backbone == "resnet50":
            part, _, rest = name.partition(".")
            official = f"{RESNET_PLACES[part]}.{rest}"
        yield Origin(f"backbone.body.{name}", (f"backbone.{official}",), tuple(tensor.shape))


def check(state: Mapping[str, Tensor], origins: Sequence[Origin]) -> None:
    """Refuse weights of which some are missing, counters aside, or have another shape."""
    missing, misshapen = [], []
    for _, names, shape in origins:
        for name in names:
            found = tuple(state[name].shape) if name in state else None
            if found is None:
                if not name.endswith(COUNTER):
                    missing.append(name)
            elif found != shape:
                misshapen.append(f"{name} {found} instead of {shape}")
    problems = [
        f"{kind}: {len(names)} ({', '.join(names[:NUM_SHOWN])}{', ...' * (len(names) > NUM_SHOWN)})"
        for kind, names in (("missing", missing), ("mis-shaped", misshapen))
        if names
    ]
    if problems:
        raise UserError(f"these weights of the official METRO are damaged; {'; '.join(problems)}")
