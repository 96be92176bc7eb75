"""Structured patterns in a classifier: which keys of each attention lie on the patch grid."""

from dataclasses import replace

from timm.models.volo import VOLO, ClassAttention, OutlookAttention
from torch import nn

from dropkey_core.attention.patterns import GridPattern, Key, Pattern
from dropkey_core.attention.places import Unit, find_unit
from dropkey_core.variants.blocks import num_prefix_tokens


def unit_at(network: nn.Module, name: str, unit: str | Pattern | Unit) -> str | Pattern | Unit:
    """Return the unit that one attention of a network can have, in the place of one for all.

    Only blocks and crosses are changed, those that leave ``num_prefix_tokens`` at 0: they get as
    many as the attention's keys have. VOLO's outlook attention weighs the 3 x 3 neighbours of each
    place, too few for a pattern of patches: there single keys are dropped in the same place.

    Args:
        network: T2T-ViT, or one of timm's.
        name: of the attention in it.
        unit: see ``dropkey_core.drop_key_attention``.
    """
    wanted = find_unit(unit)
    pattern = wanted.pattern
    if not isinstance(pattern, GridPattern) or pattern.num_prefix_tokens:
        return unit
    attention = network.get_submodule(name)
    if isinstance(attention, OutlookAttention):
        return replace(wanted, pattern=Key(shared_over=pattern.shared_over))
    if isinstance(network, VOLO):  # the class token comes after the grid is done with
        count = int(isinstance(attention, ClassAttention))
    else:
        count = num_prefix_tokens(network, name)
    return replace(wanted, pattern=replace(pattern, num_prefix_tokens=count))
