"""Multi-head attention with DropKey, a drop-in for ``torch.nn.MultiheadAttention``.

Two callbacks may stand between its weights and values, ``Reweigh`` and ``Observe``. With either,
attention is computed explicitly, at several times the time and memory of the fused path.

Shapes: B = batch, L = tokens (Lq queries, Lk keys), E = embed_dim, H = num_heads, D = E / H.
"""

from collections.abc import Callable
from functools import partial
from typing import NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dropkey_core.attention.drop_key import refuse_script
from dropkey_core.attention.functional import Inference, drop_key_attention
from dropkey_core.attention.masks import additive_mask
from dropkey_core.attention.patterns import Pattern
from dropkey_core.attention.places import Unit, find_unit
from dropkey_core.attention.schedule import check_drop_ratio

# Weights (..., Lq, Lk) after softmax and dropping -> those that average the values, as the head
# mixing of Re-attention. A module is part of the model: its parameters are trained and saved.
Reweigh = Callable[[Tensor], Tensor]
# Shown the weights (..., Lq, Lk) that average the values, for analysis and for losses on attention.
# Set for a while only, by ``captured_attention`` of ``dropkey_core.analysis``.
Observe = Callable[[Tensor], None]


class MultiheadAttention(nn.MultiheadAttention):
    """``torch.nn.MultiheadAttention`` in which queries lose random keys while training.

    Parameters, their names and initial values, the arguments and results of ``forward`` and, in
    evaluation mode or with ``drop_ratio`` 0, the numbers are those of ``torch.nn``. Three things
    differ: inputs that are the same tensor are projected together, whatever their roles; a query
    whose keys are all masked gets zeros in every mode, never nan; and the appended keys of
    ``add_bias_kv`` and ``add_zero_attn`` can be dropped like any other.

    ``dropout`` keeps its meaning: vanilla dropout of the attention weights. DropKey takes its
    place, so one of ``dropout`` and ``drop_ratio`` has to be 0.

    Args:
        embed_dim: width E of queries and outputs.
        num_heads: number of heads H, a divisor of ``embed_dim``.
        dropout: probability that a weight is dropped after the softmax.
        bias: whether the projections have biases.
        add_bias_kv: append one learned key and value.
        add_zero_attn: append one key and value of zeros.
        kdim: width of the keys; default E.
        vdim: width of the values; default E.
        batch_first: inputs and outputs are (B, L, E) rather than (L, B, E).
        device: where the parameters are made.
        dtype: floating type of the parameters.
        drop_ratio: probability in [0, 1) that a query of a head loses a key. An attribute that may
            be changed at any time.
        unit: what ``drop_ratio`` drops: "key", another name or an object that
            ``drop_key_attention`` knows.
        inference: what takes the place of the softmax in evaluation mode, see
            ``drop_key_attention``. An attribute, too.

    Attributes:
        reweigh: makes the weights that average the values of those after softmax and dropping.
            None: nothing does.
        observe: shown the weights that average the values.

    Raises:
        ValueError: ``drop_ratio`` outside [0, 1), unknown ``unit``, or ``dropout`` and
            ``drop_ratio`` both above 0.
    """

    observe: Observe | None = None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        drop_ratio: float = 0.0,
        unit: str | Pattern | Unit = "key",
        inference: Inference | None = None,
    ) -> None:
        super().__init__(
            embed_dim,
            num_heads,
            dropout=dropout,
            bias=bias,
            add_bias_kv=add_bias_kv,
            add_zero_attn=add_zero_attn,
            kdim=kdim,
            vdim=vdim,
            batch_first=batch_first,
            device=device,
            dtype=dtype,
        )
        check_drop_ratio(drop_ratio)
        find_unit(unit)  # refuses an unknown one
        self.drop_ratio = drop_ratio
        self.unit = unit
        self.inference = inference
        self.reweigh: Reweigh | None = None
        self._what_to_drop()  # refuses a ratio for both units now rather than in the first step

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from ``query`` to ``key`` and ``value``.

        Shapes are given for ``batch_first``; otherwise B and L change places. All three inputs may
        also come without B, and then the results have none.

        Args:
            query: (B, Lq, E).
            key: (B, Lk, kdim).
            value: (B, Lk, vdim).
            key_padding_mask: (B, Lk) bool, True = ignore this key; or floating, added to the logits
                of all queries.
            need_weights: return the weights too. Slower and larger by far, and ``True`` by default
                as in torch: pass ``False`` unless they are wanted.
            attn_mask: (Lq, Lk) or (B * H, Lq, Lk); bool, True = may *not* attend, or floating,
                added to the logits.
            average_attn_weights: return the mean of the weights over the heads.
            is_causal: a hint that ``attn_mask`` is causal. Needs ``attn_mask``, changes nothing.

        Returns:
            the output (B, Lq, E), and with ``need_weights`` the weights that made it, (B, Lq, Lk)
            or, not averaged, (B, H, Lq, Lk); else None. Keys appended by ``add_bias_kv`` and
            ``add_zero_attn`` come last among the Lk.

        Raises:
            ValueError: ``is_causal`` without ``attn_mask``; a mask of the wrong type or shape;
                ``dropout`` and ``drop_ratio`` both above 0.
        """
        if query.is_nested:
            return self._attend_to_nested(query, key, value, attn_mask, key_padding_mask)
        if is_causal and attn_mask is None:
            raise ValueError("attn_mask must be given with is_causal=True, which only describes it")
        ratio, unit, inference = self._what_to_drop()
        q, k, v = (self._split_heads(x) for x in self._project(query, key, value))
        mask = self._additive_mask(attn_mask, key_padding_mask, q, num_keys=k.shape[2])
        k, v, mask = self._append_keys(k, v, mask)
        attend = partial(
            drop_key_attention,
            unit=unit,
            attn_mask=mask,
            training=self.training,
            inference=inference,
        )
        weights = None
        if need_weights or self.reweigh is not None or self.observe is not None:
            out, weights = attend(q, k, v, ratio, need_weights=True)
            if self.reweigh is not None:
                weights = self.reweigh(weights)
                out = weights @ v.to(weights.dtype)
            if self.observe is not None:
                self.observe(weights)
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights if query.dim() == 3 else weights[0]
        else:
            out = attend(q, k, v, ratio)
        output = self.out_proj(self._merge_heads(out, is_batched=query.dim() == 3))
        return output, weights if need_weights else None

    def extra_repr(self) -> str:
        """Return what the module's ``repr`` says of its settings."""
        dropout = f", dropout={self.dropout}" if self.dropout else ""
        return (
            f"embed_dim={self.embed_dim}, num_heads={self.num_heads}, "
            f"drop_ratio={self.drop_ratio:g}, unit={self.unit!r}{dropout}"
        )

    def __prepare_scriptable__(self) -> NoReturn:
        """Refuse ``torch.jit.script``, see ``refuse_script``."""
        refuse_script(self)

    @property
    def _qkv_same_embed_dim(self) -> bool:
        # In evaluation torch's encoder layers compute all they do in one call of their own and
        # never come here, unless this is False.
        return self.__dict__["_qkv_same_embed_dim"] and not self._must_be_called()

    @_qkv_same_embed_dim.setter
    def _qkv_same_embed_dim(self, value: bool) -> None:
        self.__dict__["_qkv_same_embed_dim"] = value

    def _must_be_called(self) -> bool:
        return "unit" in self.__dict__  # not yet while torch's constructor asks

    def _attend_to_nested(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None,
        key_padding_mask: Tensor | None,
    ) -> tuple[Tensor, None]:
        """Attend within sequences (B, *, E) without padding, as torch's encoder makes them."""
        is_plain = query is key and key is value and attn_mask is key_padding_mask is None
        if not is_plain or not self.batch_first:
            raise ValueError(
                "nested tensors must come alone: one for query, key and value, no mask, and "
                "batch_first=True"
            )
        lengths = [len(sequence) for sequence in query.unbind()]
        padded = torch.nested.to_padded_tensor(query, 0.0)  # (B, L, E)
        ends = torch.tensor(lengths, device=query.device)[:, None]
        padding = torch.arange(padded.shape[1], device=query.device) >= ends
        output, _ = self(padded, padded, padded, key_padding_mask=padding, need_weights=False)
        rows = [row[:length] for row, length in zip(output, lengths, strict=True)]
        return torch.nested.as_nested_tensor(rows), None

    def _what_to_drop(self) -> tuple[float, str | Pattern | Unit, Inference | None]:
        if self.dropout and self.drop_ratio:
            raise ValueError(
                "one of dropout and drop_ratio must be 0, since DropKey takes the place of dropout "
                f"on the weights; got dropout={self.dropout}, drop_ratio={self.drop_ratio}"
            )
        drop = (self.dropout, "weight") if self.dropout else (self.drop_ratio, self.unit)
        return *drop, self.inference

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Project queries, keys and values to width E; inputs that are one tensor in one go."""
        if self.in_proj_weight is None:  # kdim or vdim differ from E
            inputs = [query, key, value]
            weights = [self.q_proj_weight, self.k_proj_weight, self.v_proj_weight]
        else:
            inputs, counts = _join_same(query, key, value)
            weights = self.in_proj_weight.split([count * self.embed_dim for count in counts])
        widths = [len(weight) for weight in weights]
        no_biases = [None] * len(widths)
        biases = no_biases if self.in_proj_bias is None else self.in_proj_bias.split(widths)
        projected: list[Tensor] = []
        for x, weight, bias in zip(inputs, weights, biases, strict=True):
            projected += F.linear(x, weight, bias).split(self.embed_dim, dim=-1)
        return projected

    def _split_heads(self, x: Tensor) -> Tensor:
        x = x.unflatten(-1, (self.num_heads, self.head_dim))  # (..., H, D)
        if x.dim() == 3:
            return x.transpose(0, 1).unsqueeze(0)  # (L, H, D) -> (1, H, L, D)
        return x.transpose(1, 2) if self.batch_first else x.permute(1, 2, 0, 3)  # (B, H, L, D)

    def _merge_heads(self, x: Tensor, is_batched: bool) -> Tensor:
        if not is_batched:
            x = x[0].transpose(0, 1)  # (L, H, D)
        elif self.batch_first:
            x = x.transpose(1, 2)  # (B, L, H, D)
        else:
            x = x.permute(2, 0, 1, 3)  # (L, B, H, D)
        return x.flatten(-2)

    def _additive_mask(
        self, attn_mask: Tensor | None, key_padding_mask: Tensor | None, q: Tensor, num_keys: int
    ) -> Tensor | None:
        """Check the masks of ``forward`` and merge them to one that is added to the logits."""
        batch, heads, num_queries = q.shape[:3]
        if attn_mask is not None:
            per_head = (batch * heads, num_queries, num_keys)
            _check_shape("attn_mask", attn_mask, per_head[1:], per_head)
            if attn_mask.dim() == 3:
                attn_mask = attn_mask.unflatten(0, (batch, heads))  # (B, H, Lq, Lk)
            if attn_mask.dtype == torch.bool:
                attn_mask = ~attn_mask  # from True = may not attend to True = may attend
        if key_padding_mask is not None:
            if key_padding_mask.dim() == 1:  # of a lone sequence
                key_padding_mask = key_padding_mask.unsqueeze(0)
            _check_shape("key_padding_mask", key_padding_mask, (batch, num_keys))
        return additive_mask(attn_mask, key_padding_mask, q.dtype)

    def _append_keys(
        self, k: Tensor, v: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Append what ``add_bias_kv`` and ``add_zero_attn`` ask for, open to every query."""
        appended = []
        if self.bias_k is not None and self.bias_v is not None:
            appended.append([self._split_heads(x.flatten(1)) for x in (self.bias_k, self.bias_v)])
        if self.add_zero_attn:
            appended.append([k.new_zeros(1, self.num_heads, 1, self.head_dim)] * 2)
        for new_k, new_v in appended:
            k = torch.cat((k, new_k.to(k).expand(len(k), -1, -1, -1)), dim=2)
            v = torch.cat((v, new_v.to(v).expand(len(v), -1, -1, -1)), dim=2)
        if mask is not None:
            mask = F.pad(mask, (0, len(appended)))
        return k, v, mask


def _join_same(query: Tensor, key: Tensor, value: Tensor) -> tuple[list[Tensor], list[int]]:
    """Return the inputs, with neighbours that are one tensor given once, and how many each is."""
    if query is key and key is value:
        return [query], [3]
    if query is key:
        return [query, value], [2, 1]
    if key is value:
        return [query, key], [1, 2]
    return [query, key, value], [1, 1, 1]


def _check_shape(name: str, mask: Tensor, *shapes: tuple[int, ...]) -> None:
    if tuple(mask.shape) not in shapes:
        expected = " or ".join(map(str, shapes))
        raise ValueError(f"{name} must have shape {expected}, got {tuple(mask.shape)}")
