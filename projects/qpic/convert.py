"""A start for QPIC from the weights of a DETR, as the published QPIC starts.

Shapes: D embedding channels, C object classes, V verbs.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dropkey_core.engine import UserError
from projects.detr.coco import COCO_CATEGORY_IDS

BOX_HEAD, BOX_HEADS = "bbox_embed.", ("sub_bbox_embed.", "obj_bbox_embed.")
CLASS_HEAD, OBJECT_HEAD, VERB_HEAD = "class_embed.", "obj_class_embed.", "verb_class_embed."
NUM_COCO_CLASSES = 91  # of the official DETR: its class index is COCO's category id


def qpic_from_detr(
    state: Mapping[str, Tensor], num_object_classes: int, num_verb_classes: int, seed: int = 0
) -> tuple[dict[str, Tensor], list[str]]:
    """Turn the weights of a DETR into a complete start for QPIC.

    The body (backbone, transformer, queries, input projection) keeps its weights and names. The
    box head becomes that of subjects and, once more, that of objects. The object head gets the rows
    of the class head that stand for its classes, see ``rows_of_objects``, or starts afresh, as the
    verb head always does. (The official conversion knows no class head but the official, leaves the
    verb head to the model, and keeps DETR's heads in the file.)

    Args:
        state: the ``state_dict`` of DETR, official or ours.
        num_object_classes: C, without "no object".
        num_verb_classes: V.
        seed: of the weights that start afresh.

    Returns:
        the ``state_dict`` of QPIC, and what was done, a line each.

    Raises:
        UserError: if these are not the weights of a DETR.
    """
    for name in (f"{CLASS_HEAD}weight", f"{BOX_HEAD}layers.0.weight", "query_embed.weight"):
        if name not in state:
            is_qpic = f"{VERB_HEAD}weight" in state
            raise UserError(
                f"these are not the weights of a DETR: there is no {name}"
                + ("; they are QPIC's already, nothing is to be converted" if is_qpic else "")
            )
    heads = (CLASS_HEAD, BOX_HEAD)
    converted = {name: value for name, value in state.items() if not name.startswith(heads)}
    said = [f"kept: {len(converted)} tensors, {len(state['query_embed.weight'])} queries"]
    for name, value in state.items():
        if name.startswith(BOX_HEAD):
            for head in BOX_HEADS:
                converted[head + name.removeprefix(BOX_HEAD)] = value.clone()
    said.append("box head: now that of subjects and that of objects")

    num_rows, embed_dim = state[f"{CLASS_HEAD}weight"].shape
    num_classes = num_rows - 1  # one row is "no object"
    generator = torch.Generator().manual_seed(seed)
    if rows := rows_of_objects(num_classes, num_object_classes):
        for kind in ("weight", "bias"):
            converted[OBJECT_HEAD + kind] = state[CLASS_HEAD + kind][rows].clone()
        same = " (taken to be the same ones)" if num_classes == num_object_classes else ""
        origin = f"of the {num_classes} classes of DETR{same}, and its 'no object'"
    else:
        converted |= fresh_head(OBJECT_HEAD, embed_dim, num_object_classes + 1, generator)
        origin = f"classes, initialised anew, for the {num_classes} classes of this DETR are others"
    said.append(f"object head: {num_object_classes} {origin}")
    converted |= fresh_head(VERB_HEAD, embed_dim, num_verb_classes, generator)
    said.append(f"verb head: {num_verb_classes} classes, initialised anew (seed {seed})")
    return converted, said


def rows_of_objects(num_classes: int, num_object_classes: int) -> list[int]:
    """Rows of DETR's class head, "no object" last, that stand for QPIC's classes; [] for none.

    Of the official 91 those of COCO's 80 categories in the order of their ids, which is HICO-DET's;
    of a head that has as many classes all.
    """
    if num_classes == num_object_classes:
        return list(range(num_classes + 1))
    if (num_classes, num_object_classes) == (NUM_COCO_CLASSES, len(COCO_CATEGORY_IDS)):
        return [*sorted(COCO_CATEGORY_IDS), NUM_COCO_CLASSES]
    return []


def fresh_head(
    prefix: str, embed_dim: int, num_rows: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Weights of a linear head, distributed as ``nn.Linear`` draws them."""
    head = nn.utils.skip_init(nn.Linear, embed_dim, num_rows)
    bound = embed_dim**-0.5
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.uniform_(-bound, bound, generator=generator)
    return {f"{prefix}{name}": value for name, value in head.state_dict().items()}
