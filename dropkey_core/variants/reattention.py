"""Re-attention, the head mixing of DeepViT (arXiv 2103.11886).

    A' = BatchNorm(mixing of the heads of A) * t,    output = A' V

A are the weights after softmax and dropping. In deep transformers the maps of successive layers
become alike; to mix the heads anew in each layer makes them differ again. Rows of A' do not sum to
1, and have negative entries.

Besides, DeepViT adjusts the scale of its blocks: both branches see a x and are divided by a,

    x + attention(norm1(a x)) / a, then x + mlp(norm2(a x)) / a

Behind a LayerNorm the first a changes next to nothing, so the branches weigh 1 / a times as much
beside the residual path.

Shapes: (B, H, Lq, Lk) = batch (or batch and windows), heads, queries, keys.
"""

from collections.abc import Mapping
from numbers import Real
from typing import Any

from torch import Tensor, nn

from dropkey_core.equip.apply import Select
from dropkey_core.equip.depth import layers_of_stacks
from dropkey_core.equip.equipped import original_name
from dropkey_core.variants.blocks import block_name, remove_hooks, self_attention

# What attention calls its number of heads, its softmax scale, and the width of a head.
_NUM_HEADS = ("num_heads", "num_attention_heads", "n_heads")
_SCALE = ("scale", "scaling")
_HEAD_DIM = ("head_dim", "attention_head_size")

# The parts of a block whose scale can be adjusted.
_ADJUSTED_NORMS, _ADJUSTED_BRANCHES = ("norm1", "norm2"), ("attn", "mlp")


class Reattention(nn.Module):
    """Mixes the heads of attention weights.

    Args:
        num_heads: number of heads H.
        scale: factor t on the result.

    Attributes:
        mixing: 1x1 convolution over the heads, with a bias, which only counts in evaluation: in
            training the normalisation subtracts it again.
        norm: batch normalisation with a mean and a variance for each head, over batch, queries and
            keys.
    """

    def __init__(self, num_heads: int, scale: float = 1.0) -> None:
        super().__init__()
        self.mixing = nn.Conv2d(num_heads, num_heads, kernel_size=1)
        self.norm = nn.BatchNorm2d(num_heads)
        self.scale = scale

    def forward(self, weights: Tensor) -> Tensor:
        """Return the weights (B, H, Lq, Lk) that average the values in place of ``weights``.

        Raises:
            ValueError: ``weights`` has another number of axes or heads.
        """
        if weights.dim() != 4 or weights.shape[1] != self.mixing.in_channels:
            raise ValueError(
                f"Re-attention of {self.mixing.in_channels} heads needs weights "
                f"(B, {self.mixing.in_channels}, Lq, Lk), got {tuple(weights.shape)}: "
                "leave this attention out with select"
            )
        return self.norm(self.mixing(weights)) * self.scale

    def extra_repr(self) -> str:
        """Return what the module's ``repr`` says of its settings."""
        return f"scale={self.scale:g}"


def apply_reattention(
    network: nn.Module,
    *,
    last_layers: int | None = None,
    transform_scale: bool = False,
    scale_adjustment: float = 1.0,
    select: Select | None = None,
) -> list[str]:
    """Give the self-attention of an equipped network Re-attention; in place.

    It is ``<attention>.reweigh``, a ``Reattention`` whose initial values come from torch's
    generator. State dicts get its ``mixing.weight``, ``mixing.bias``, ``norm.weight``,
    ``norm.bias``, ``norm.running_mean``, ``norm.running_var`` and ``norm.num_batches_tracked``.

    DeepViT-S has ``last_layers=5, transform_scale=True, scale_adjustment=0.5`` of 16 layers,
    DeepViT-L ``last_layers=12, scale_adjustment=0.5`` of 32; the defaults are those of the plain
    models of 16, 24 and 32.

    Args:
        network: a model with attention that drops keys; ``apply_dropkey(network, 0.0)`` makes it
            one without another effect.
        last_layers: how many of the last layers of each stack mix heads. None: all.
        transform_scale: t is the scale of the softmax rather than 1.
        scale_adjustment: a, see the top of the file, for *all* layers of the stacks, as in the
            original.
        select: gets name and module of each attention; those for which it returns True count as
            layers. None: what ``self_attention`` returns.

    Returns:
        names of the attention modules that now mix heads, in depth order

    Raises:
        ValueError: nothing drops keys; class or outlook attention, or attention with one head or
            ``reweigh`` already, was chosen; a stack has fewer than ``last_layers`` layers;
            ``scale_adjustment`` is not above 0, or the blocks are not made for it. The network is
            then as it was.
    """
    if not scale_adjustment > 0:
        raise ValueError(f"scale_adjustment must be above 0, got {scale_adjustment}")
    chosen = self_attention(network, select)
    names = _last(network, chosen, last_layers)
    made = {name: _make(name, chosen[name], transform_scale) for name in names}
    if scale_adjustment != 1.0:
        try:
            for name in dict.fromkeys(block_name(network, name) for name in chosen):
                _adjust_scale(network.get_submodule(name), scale_adjustment, name)
        except ValueError:
            _remove_scale_adjustment(network)
            raise
    for name, reattention in made.items():
        chosen[name].reweigh = reattention
    return names


def remove_reattention(network: nn.Module) -> None:
    """Undo ``apply_reattention``; nothing happens to a model without it."""
    for module in list(network.modules()):
        if isinstance(getattr(module, "reweigh", None), Reattention):
            del module.reweigh  # as a submodule; to set None would leave an empty one
            module.reweigh = None  # type: ignore[assignment]
    _remove_scale_adjustment(network)


def from_deepvit(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict of the official DeepViT under the names that Re-attention has here.

    The other names are timm's already.

    Args:
        state_dict: with names such as ``blocks.11.attn.reatten_matrix.weight``.
    """
    ours = {"reatten_matrix": "reweigh.mixing", "var_norm": "reweigh.norm"}
    return {
        ".".join(ours.get(part, part) for part in name.split(".")): tensor
        for name, tensor in state_dict.items()
    }


def _last(
    network: nn.Module, chosen: Mapping[str, nn.Module], last_layers: int | None
) -> list[str]:
    names: list[str] = []
    for stack, layers in layers_of_stacks(network, chosen).items():
        if last_layers is not None and not 1 <= last_layers <= len(layers):
            raise ValueError(
                f"last_layers must be in [1, {len(layers)}], the number of layers of "
                f"{stack or 'the model'}, got {last_layers}"
            )
        last = layers if last_layers is None else layers[-last_layers:]
        names += [name for layer in last for name in layer]
    return names


def _make(name: str, attention: nn.Module, transform_scale: bool) -> Reattention:
    """Make the Re-attention of one attention, on its device and in its type."""
    who = f"{name or 'the model'} ({original_name(attention)})"
    if getattr(attention, "reweigh", None) is not None:
        raise ValueError(f"{who} has reweigh already: call remove_reattention first")
    num_heads = _first_number(attention, _NUM_HEADS)
    if num_heads is None or num_heads < 2:
        found = "no attribute num_heads" if num_heads is None else "one head, nothing to mix"
        raise ValueError(f"{who} has {found}: leave it out with select")
    scale = _softmax_scale(attention, who) if transform_scale else 1.0
    like = next(attention.parameters())
    made = Reattention(int(num_heads), scale).to(like.device, like.dtype)
    return made.train(attention.training)


def _softmax_scale(attention: nn.Module, who: str) -> float:
    """Return the factor on the dot products: what it says, or 1 / sqrt(width of a head)."""
    scale = _first_number(attention, _SCALE)
    head_dim = _first_number(attention, _HEAD_DIM)
    projection = getattr(attention, "proj", None)
    if scale is not None:
        return float(scale)
    if head_dim is None and isinstance(projection, nn.Linear):
        head_dim = projection.in_features // _first_number(attention, _NUM_HEADS)
    if head_dim is None:
        raise ValueError(f"{who} has neither scale nor head_dim, which transform_scale needs")
    return float(head_dim) ** -0.5


def _first_number(module: nn.Module, names: tuple[str, ...]) -> Any:
    values = (getattr(module, name, None) for name in names)
    return next((value for value in values if isinstance(value, Real)), None)


class _BranchScale:
    """The hooks of one block whose branches see a x and are divided by a."""

    def __init__(self, ratio: float) -> None:
        self.ratio = ratio

    def multiply_input(self, norm: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0] * self.ratio, *args[1:])

    def divide_output(self, branch: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, Tensor):
            return output / self.ratio
        return (output[0] / self.ratio, *output[1:])


def _adjust_scale(block: nn.Module, ratio: float, name: str) -> None:
    """Adjust the scale of a pre-normalised block; a ``ValueError`` if it has other parts."""
    missing = [part for part in (*_ADJUSTED_NORMS, *_ADJUSTED_BRANCHES) if not hasattr(block, part)]
    if missing:
        raise ValueError(
            f"scale_adjustment {ratio:g} needs blocks with norm1, attn, norm2 and mlp; "
            f"{name or 'the model'} ({type(block).__name__}) lacks {', '.join(missing)}: "
            "leave scale_adjustment at 1"
        )
    hooks = _BranchScale(ratio)
    for part in _ADJUSTED_NORMS:
        getattr(block, part).register_forward_pre_hook(hooks.multiply_input)
    for part in _ADJUSTED_BRANCHES:
        getattr(block, part).register_forward_hook(hooks.divide_output)


def _remove_scale_adjustment(network: nn.Module) -> None:
    for module in network.modules():
        remove_hooks(module, _BranchScale)
