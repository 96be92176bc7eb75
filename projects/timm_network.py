"""Networks of timm, random or with published weights."""

from typing import Any

import timm
from torch import nn

from dropkey_core.engine.errors import UserError


def create_timm_network(name: str, pretrained: bool, **settings: Any) -> nn.Module:
    """Make a network of timm.

    Args:
        name: of the network; after a dot that of certain weights, which matter if ``pretrained``.
        pretrained: start from the published weights, fetched once from the Hugging Face hub.
        **settings: of ``timm.create_model``.

    Raises:
        UserError: there are no such weights, or they are out of reach.
        TypeError: a setting that the network does not take.
    """
    if not pretrained:
        made: nn.Module = timm.create_model(name.split(".")[0], pretrained=False, **settings)
        return made
    if not timm.is_model_pretrained(name):
        raise UserError(f"timm has no weights {name}: set model.pretrained_backbone=false")
    try:
        made = timm.create_model(name, pretrained=True, **settings)
    except OSError as error:  # what the hub's client raises without network is one, too
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"cannot fetch the weights {name} from the Hugging Face hub ({reason}): copy them into "
            "its cache (HF_HOME), or set model.pretrained_backbone=false"
        ) from error
    return made
