"""DETR as ``transformers`` keeps it: its folders into our model, and our model into such a folder.

Read are folders, local or on the hub, of ``DetrForObjectDetection``, among them
facebook/detr-resnet-50 and its like: the main revision, whose backbone is timm's ResNet, and
``no_timm``, whose is transformers' own. Not read are the panoptic ones, which have a mask head, and
other relatives of DETR. The libraries for it, huggingface_hub and safetensors, come with timm.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import huggingface_hub
import msgspec
import safetensors.torch
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from torch import Tensor
from torchvision.models.resnet import BasicBlock

from dropkey_core.engine.errors import UserError, said_by
from dropkey_core.engine.files.atomic_write import make_folder, whole_file
from dropkey_core.engine.files.checkpoints import LARGEST_FILE, read_content
from dropkey_core.engine.files.json_file import read_json
from dropkey_core.engine.files.outside import check_file, reading
from projects.detr.backbone import ARCHITECTURES, ResNetBackbone
from projects.detr.box_detr import BoxDetr
from projects.detr.detr import IMAGENET_MEAN, IMAGENET_STD, Detr

CONFIG, WEIGHTS, OLDER_WEIGHTS = "config.json", "model.safetensors", "pytorch_model.bin"
IMAGES = "preprocessor_config.json"
IDENTIFIER = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")  # owner/name@revision
IN_TIMM = ("resnet18", "resnet34", "resnet50", "resnet101")

# Their names, those in memory from transformers 5 on too, become ours one after the other.
TO_OURS: tuple[tuple[str, Any], ...] = (
    (r"^model\.query_position_embeddings\.", "query_embed."),
    (r"^model\.input_projection\.", "input_proj."),
    (r"^class_labels_classifier\.", "class_embed."),
    (r"^bbox_predictor\.", "bbox_embed."),
    (r"^model\.backbone\.(conv_encoder\.)?model\.", "backbone.0.body."),
    (r"embedder\.embedder\.convolution", "conv1"),
    (r"embedder\.embedder\.normalization", "bn1"),
    (r"encoder\.stages\.(\d)\.layers", lambda stage: f"layer{int(stage[1]) + 1}"),
    (r"\.layer\.(\d)\.convolution", lambda conv: f".conv{int(conv[1]) + 1}"),
    (r"\.layer\.(\d)\.normalization", lambda norm: f".bn{int(norm[1]) + 1}"),
    (r"shortcut\.convolution", "downsample.0"),
    (r"shortcut\.normalization", "downsample.1"),
    (r"^model\.(encoder|decoder)\.", r"transformer.\1."),
    (r"decoder\.layernorm", "decoder.norm"),
    (r"(mlp\.)?fc(\d)", r"linear\2"),
    (r"self_attn_layer_norm", "norm1"),
    (r"encoder_attn_layer_norm", "norm2"),
    (r"(encoder\.layers\.\d+)\.final_layer_norm", r"\1.norm2"),
    (r"(decoder\.layers\.\d+)\.final_layer_norm", r"\1.norm3"),
    (r"encoder_attn\.", "multihead_attn."),
    (r"(out|o)_proj", "out_proj"),
)
# Ours become theirs as they are in a file whose backbone is timm's.
TO_THEIRS = (
    (r"^query_embed\.", "model.query_position_embeddings."),
    (r"^input_proj\.", "model.input_projection."),
    (r"^class_embed\.", "class_labels_classifier."),
    (r"^bbox_embed\.", "bbox_predictor."),
    (r"^backbone\.0\.body\.", "model.backbone.conv_encoder.model."),
    (r"^transformer\.", "model."),
    (r"decoder\.norm\.", "decoder.layernorm."),
    (r"(layers\.\d+)\.linear(\d)", r"\1.fc\2"),
    (r"(layers\.\d+)\.norm1", r"\1.self_attn_layer_norm"),
    (r"(encoder\.layers\.\d+)\.norm2", r"\1.final_layer_norm"),
    (r"(decoder\.layers\.\d+)\.norm2", r"\1.encoder_attn_layer_norm"),
    (r"(decoder\.layers\.\d+)\.norm3", r"\1.final_layer_norm"),
    (r"multihead_attn\.", "encoder_attn."),
)


class BackboneConfig(msgspec.Struct):
    """What a ``config.json`` says of its backbone: timm's, or transformers' own ResNet."""

    model_type: Literal["timm_backbone", "resnet"]
    backbone: str | None = None  # timm's name
    output_stride: int | None = None
    depths: tuple[int, ...] = (3, 4, 6, 3)
    layer_type: Literal["basic", "bottleneck"] = "bottleneck"
    hidden_sizes: tuple[int, ...] = (256, 512, 1024, 2048)
    embedding_size: int = 64
    hidden_act: Literal["relu"] = "relu"
    downsample_in_first_stage: Literal[False] = False
    downsample_in_bottleneck: Literal[False] = False


class HubConfig(msgspec.Struct):
    """What a ``config.json`` says of a DETR; the defaults are those of ``DetrConfig``."""

    model_type: Literal["detr"]
    architectures: tuple[str, ...] | None = None
    num_queries: int = 100
    d_model: int = 256
    encoder_layers: int = 6
    encoder_ffn_dim: int = 2048
    encoder_attention_heads: int = 8
    decoder_layers: int = 6
    decoder_ffn_dim: int = 2048
    decoder_attention_heads: int = 8
    dropout: float = 0.1
    num_channels: Literal[3] = 3
    activation_function: Literal["relu"] = "relu"
    position_embedding_type: Literal["sine"] = "sine"
    id2label: dict[str, str] = {}
    backbone: str | None = None
    backbone_config: BackboneConfig | None = None
    dilation: bool | None = False


class ImageSizes(msgspec.Struct):
    """What a ``preprocessor_config.json`` says of sizes, in pixels; older ones have two numbers."""

    size: dict[str, int] | int = 800
    max_size: int = 1333

    def sides(self) -> tuple[int, int]:
        """The length that the shorter side is resized to, and the longer side's greatest."""
        if isinstance(self.size, int):
            return self.size, self.max_size
        return self.size.get("shortest_edge", 800), self.size.get("longest_edge", self.max_size)


# ---- reading -------------------------------------------------------------------------------------
def load_hugging_face(source: str | Path) -> tuple[dict[str, Tensor], dict[str, Any], list[str]]:
    """Read a DETR of ``transformers``.

    Args:
        source: a folder with ``config.json`` and weights (``model.safetensors``, else
            ``pytorch_model.bin``), or an id on the hub, ``owner/name`` or ``owner/name@revision``,
            which is fetched once.

    Returns:
        the ``state_dict`` under our names, which are the official DETR's; the settings of
        ``projects.detr.build_model`` that make its model; and the names of the classes, by index.

    Raises:
        UserError: it is neither, out of reach, unsound, or a model that is not DETR's.
    """
    config_file, weights_file = find_files(str(source))
    config = read_json(config_file, HubConfig)
    refuse_other_models(config, config_file)
    state = to_our_names(read_weights(weights_file))
    if "class_embed.bias" not in state:
        raise UserError(f"{weights_file} holds no DETR: it has no class_labels_classifier")
    backbone, dilation = backbone_of(config, config_file)
    num_classes = len(state["class_embed.bias"]) - 1  # one is "no object"
    settings = {
        "backbone": backbone,
        "dilation": dilation,
        "pretrained_backbone": False,
        "num_classes": num_classes,
        "num_queries": config.num_queries,
        "embed_dim": config.d_model,
        "num_heads": config.encoder_attention_heads,
        "num_encoder_layers": config.encoder_layers,
        "num_decoder_layers": config.decoder_layers,
        "ffn_dim": config.encoder_ffn_dim,
        "dropout": config.dropout,
    }
    names = [config.id2label.get(str(label), f"LABEL_{label}") for label in range(num_classes)]
    return state, settings, names


def image_sides(source: str | Path) -> tuple[int, int]:
    """How the images of a model are resized, see ``ImageSizes.sides``; for the source see above."""
    folder = Path(source).expanduser()
    file: Path | None = folder / IMAGES
    if not folder.is_dir() and (identifier := IDENTIFIER.fullmatch(str(source))):
        file = fetched(IMAGES, *identifier.groups())
    if file is None or not file.is_file():
        return ImageSizes().sides()
    return read_json(file, ImageSizes).sides()


def find_files(source: str) -> tuple[Path, Path]:
    """The config and the weights of a folder, or of an id on the hub after fetching them."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        files = {name: folder / name for name in (CONFIG, WEIGHTS, OLDER_WEIGHTS)}
        found = [name for name, file in files.items() if file.is_file()]
    elif identifier := IDENTIFIER.fullmatch(source):
        files = {CONFIG: fetched(CONFIG, *identifier.groups())}
        for name in (WEIGHTS, OLDER_WEIGHTS):
            if files.get(WEIGHTS) is None:
                files[name] = fetched(name, *identifier.groups())
        found = [name for name, file in files.items() if file is not None]
    else:
        raise UserError(f"{source} is neither a folder nor an id on the Hugging Face hub")
    weights = [name for name in (WEIGHTS, OLDER_WEIGHTS) if name in found]
    if CONFIG not in found or not weights:
        missing = CONFIG if CONFIG not in found else f"{WEIGHTS} nor {OLDER_WEIGHTS}"
        raise UserError(f"{source} is no model of transformers: it has no {missing}")
    return files[CONFIG], files[weights[0]]


def fetched(name: str, repository: str, revision: str | None) -> Path | None:
    """Where a file of the hub is on this machine, fetched once; None if there is none."""
    try:
        return Path(huggingface_hub.hf_hub_download(repository, name, revision=revision))
    except (EntryNotFoundError, OSError, ValueError) as error:
        absent = isinstance(error, EntryNotFoundError)
        if absent and not isinstance(error, LocalEntryNotFoundError):
            return None
        raise UserError(
            f"no folder {repository} is here, and {name} of {repository} cannot be fetched from "
            f"the Hugging Face hub ({said_by(error)}); "
            f"fetched elsewhere, give the folder that holds {CONFIG} and {WEIGHTS}"
        ) from error


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a ``model.safetensors`` or ``pytorch_model.bin``."""
    if file.name != WEIGHTS:
        content = read_content(file, str(file))
        return {name: value for name, value in content.items() if isinstance(value, Tensor)}
    check_file(file, LARGEST_FILE)
    with reading(file, "safetensors"):
        return safetensors.torch.load_file(file)


def refuse_other_models(config: HubConfig, file: Path) -> None:
    """Raise a ``UserError`` if the config is of a model that ours cannot be."""
    if config.architectures and "DetrForObjectDetection" not in config.architectures:
        raise UserError(
            f"{file} is of {config.architectures[0]}; only DetrForObjectDetection can be read"
        )
    for name in ("attention_heads", "ffn_dim"):
        encoder, decoder = (getattr(config, f"{stack}_{name}") for stack in ("encoder", "decoder"))
        if encoder != decoder:
            raise UserError(
                f"{file} has encoder_{name} {encoder} and decoder_{name} {decoder}: they must agree"
            )


def backbone_of(config: HubConfig, file: Path) -> tuple[str, bool]:
    """Name of the ResNet and whether its last stage is dilated."""
    inner = config.backbone_config or BackboneConfig("timm_backbone", config.backbone)
    dilation = bool(config.dilation) or inner.output_stride == 16
    if inner.model_type == "timm_backbone":
        if (found := str(inner.backbone).split(".")[0]) in IN_TIMM:
            return found, dilation
    else:
        blocks = {"basic": (1, (64, 128, 256, 512)), "bottleneck": (4, (256, 512, 1024, 2048))}
        expansion, widths = blocks[inner.layer_type]
        for name, (block, depths) in ARCHITECTURES.items():
            sizes = (block.expansion, tuple(depths), widths, 64)
            if sizes == (expansion, inner.depths, inner.hidden_sizes, inner.embedding_size):
                return name, False  # theirs knows no dilation
        found = f"a {inner.layer_type} ResNet of depths {inner.depths}"
    raise UserError(f"{file} has the backbone {found}; {', '.join(ARCHITECTURES)} are known")


def to_our_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of ``DetrForObjectDetection``; join queries', keys' and values'."""
    ours = {}
    for name, tensor in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        for pattern, replacement in TO_OURS:
            name = re.sub(pattern, replacement, name)
        ours[name] = tensor
    for name in [name for name in ours if ".q_proj." in name]:
        parts = [ours.pop(name.replace(".q_proj.", f".{part}_proj.")) for part in "qkv"]
        ours[name.replace(".q_proj.", ".in_proj_")] = torch.cat(parts)
    return ours


# ---- writing -------------------------------------------------------------------------------------
def save_hugging_face(
    model: Detr,
    class_names: Sequence[str],
    folder: str | Path,
    sides: tuple[int, int] = (800, 1333),
) -> None:
    """Write a model as a folder that ``DetrForObjectDetection.from_pretrained`` reads.

    The backbone is timm's ResNet there, as in facebook/detr-resnet-50. Beside the model lies what
    ``DetrImageProcessor`` must know.

    Args:
        model: which has its official parts alone.
        class_names: by index.
        folder: is made; files of these names in it are replaced.
        sides: how images are resized, see ``ImageSizes.sides``.

    Raises:
        UserError: the model has what DETR in ``transformers`` has not, other names than classes, or
            the folder cannot be written.
    """
    backbone = model.backbone[0]
    name = check_official(model, backbone)
    if len(class_names) != model.class_embed.out_features - 1:
        raise UserError(
            f"the model has {model.class_embed.out_features - 1} classes and {len(class_names)} "
            "class names are given"
        )
    encoder, decoder = model.transformer.encoder.layers, model.transformer.decoder.layers
    layer = decoder[0]
    config = {
        "architectures": ["DetrForObjectDetection"],
        "model_type": "detr",
        "use_timm_backbone": True,
        "backbone": name,
        "use_pretrained_backbone": False,
        "dilation": backbone.dilation,
        "num_queries": model.num_queries,
        "d_model": layer.self_attn.embed_dim,
        "encoder_layers": len(encoder),
        "decoder_layers": len(decoder),
        "encoder_ffn_dim": layer.linear1.out_features,
        "decoder_ffn_dim": layer.linear1.out_features,
        "encoder_attention_heads": layer.self_attn.num_heads,
        "decoder_attention_heads": layer.self_attn.num_heads,
        "dropout": layer.dropout.p,
        "id2label": {str(label): name for label, name in enumerate(class_names)},
        "label2id": {name: label for label, name in enumerate(class_names)},
    }
    images = {
        "image_processor_type": "DetrImageProcessor",
        "size": {"shortest_edge": sides[0], "longest_edge": sides[1]},
        "image_mean": IMAGENET_MEAN,
        "image_std": IMAGENET_STD,
    }
    folder = make_folder(Path(folder).expanduser())
    with whole_file(folder / WEIGHTS, "wb") as file:
        file.write(safetensors.torch.save(to_their_names(model.state_dict()), {"format": "pt"}))
    for file_name, document in ((CONFIG, config), (IMAGES, images)):
        with whole_file(folder / file_name) as file:
            json.dump(document, file, indent=2)


def check_official(model: Detr, backbone: ResNetBackbone) -> str:
    """The name of the model's ResNet; ``UserError`` if ``transformers`` has no such DETR."""
    name = architecture_of(backbone)
    position_encoding = model.backbone[1]
    longest = float(position_encoding.wavelengths[-1])
    official = 10_000.0 ** (1 - 1 / len(position_encoding.wavelengths))
    others = {
        "query_boxes": isinstance(model, BoxDetr),
        "focal": model.loss.focal,
        "pre_norm": model.transformer.encoder.norm is not None,
        "backbone_stages": len(backbone.stages) < 4,
        "backbone_top_down": backbone.top_down is not None,
        "canvas": model.canvas > 0,
        "position_temperature": abs(longest - official) > 1e-3 * official,
        f"backbone={name}": name not in IN_TIMM,
    }
    if found := [setting for setting, other in others.items() if other]:
        raise UserError(f"transformers has no DETR with this model's {', '.join(found)}")
    return name


def architecture_of(backbone: ResNetBackbone) -> str:
    """The name of a ResNet, by its blocks."""
    stages = [getattr(backbone.body, stage) for stage in backbone.stages]
    basic = isinstance(stages[0][0], BasicBlock)
    built = basic, [len(stage) for stage in stages]
    for name, (block, depths) in ARCHITECTURES.items():
        if built == (issubclass(block, BasicBlock), depths[: len(stages)]):
            return name
    raise AssertionError(f"no ResNet is built so: {built}")


def to_their_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of ``to_our_names``, for a file whose backbone is timm's."""
    theirs = {}
    for name, tensor in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        for pattern, replacement in TO_THEIRS:
            name = re.sub(pattern, replacement, name)
        if ".in_proj_" in name:
            for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                theirs[name.replace(".in_proj_", f".{part}_proj.")] = rows.contiguous()
        else:
            theirs[name] = tensor.contiguous()
    return theirs
