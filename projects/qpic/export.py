"""Export of QPIC: the outputs of the file; inputs as in ``projects.detr.export``."""

from dropkey_core.engine.export import Exportable
from projects.detr.export import exportable_body
from projects.qpic.predictor import InteractionDetector

OUTPUTS = ("pred_obj_logits", "pred_verb_logits", "pred_sub_boxes", "pred_obj_boxes")


def exportable(detector: InteractionDetector) -> Exportable:
    """An ``InteractionDetector``; what its outputs are says ``Qpic.predict_batch``."""
    return exportable_body(detector.model, OUTPUTS)
