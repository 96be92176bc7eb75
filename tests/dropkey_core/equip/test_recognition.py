"""What ``recognition`` takes for attention: rules on toys, and an audit of whole libraries."""

import importlib
import importlib.metadata
import inspect
import pkgutil
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dropkey_core.attention.modules import MultiheadAttention
from dropkey_core.equip.recognition import (
    find_attention,
    looks_like_attention,
    why_not_class,
)
from tests.dropkey_core.toys import FusedAttention

AUDIT = Path(__file__).with_name("attention_audit.txt")
AUDITED = {"timm": "1.0.31", "torchvision": "0.29", "transformers": "5.24"}


class Unnamed(FusedAttention):
    """Its name says nothing, its code does."""


class SoftmaxAttn(nn.Module):
    def forward(self, x):
        return (x @ x.mT).softmax(-1) @ x


class ModuleAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attend = nn.Softmax(dim=-1)

    def forward(self, x):
        return self.attend(x @ x.mT) @ x


def far_away(x):
    return (x @ x.mT).softmax(-1) @ x


def helper(x):
    return far_away(x)


class CallingMHSA(nn.Module):
    def forward(self, x):
        return helper(x)


def attend(x):
    return F.scaled_dot_product_attention(x, x, x)


class CallingBlock(nn.Module):
    """Its name says nothing, nor does its code: a function of its own attends."""

    def forward(self, x):
        return attend(x)


class MultiHeadBlock(nn.Module):
    def forward(self, x):
        return F.multi_head_attention_forward(x, x, x)


class BySuperAttention(SoftmaxAttn):
    def forward(self, x):
        return 2 * super().forward(x)


class Raising:
    """Stands for a library that is not there."""

    def __getattr__(self, name):
        raise ImportError(f"no {name} without the library")

    def __call__(self):
        pass


missing = Raising()


class OptionalAttention(nn.Module):
    kernel = missing

    def forward(self, x):
        return (x @ x.mT).softmax(-1) @ x if missing is None or x.dim() else missing(x)


class CrossBlock(nn.Module):
    """Attention written out, under a name of its own."""

    def forward(self, x, y):
        weights = F.softmax(torch.einsum("bid,bjd->bij", x, y), dim=-1)
        return torch.einsum("bij,bjd->bid", weights, y)


class Router(nn.Module):
    """One product only."""

    def forward(self, x):
        return (x @ x.mT).softmax(-1)


class Wrapper(nn.Module):
    def __init__(self, child):
        super().__init__()
        self.inner = child

    def forward(self, x):
        return self.inner(x)


class AttentionWrapper(Wrapper):
    pass


class MixedAttention(Wrapper):
    def forward(self, x):
        return self.inner(x) + (x @ x.mT).softmax(-1) @ x


class GateAttention(nn.Module):
    def forward(self, x):
        return x * x.mean(-1, keepdim=True).sigmoid()


class XCA(FusedAttention):
    pass


class MyXCA(XCA):
    pass


class Gate(nn.Module):
    def forward(self, x):
        return x.softmax(-1)


class OwnForward(nn.MultiheadAttention):
    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs)


class NoForward(nn.MultiheadAttention):
    pass


@pytest.mark.parametrize(
    "module",
    [
        FusedAttention(),
        Unnamed(),
        SoftmaxAttn(),
        ModuleAttention(),
        CallingMHSA(),
        type("SomeMLA", (CallingMHSA,), {})(),
        CallingBlock(),
        MultiHeadBlock(),
        BySuperAttention(),
        OptionalAttention(),
        nn.MultiheadAttention(4, 1),
        NoForward(4, 1),
        MultiheadAttention(4, 1),
    ],
    ids=lambda module: type(module).__name__,
)
def test_attention_is_found(module):
    for model in (module, nn.Sequential(nn.Identity(), module)):
        found, left_out = find_attention(model)
        assert list(found.values()) == [module] and not left_out


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (GateAttention(), "no softmax"),
        (XCA(), "channels"),
        (MyXCA(), "channels"),
        (OwnForward(4, 1), "overrides forward"),
        (CrossBlock(), "between two products, .* include="),
        (torch.fx.symbolic_trace(nn.Sequential(FusedAttention())), "torch.fx graph"),
    ],
    ids=lambda x: type(x).__name__,
)
def test_lookalikes_are_left_out_with_the_reason(module, reason):
    found, [left_out] = find_attention(nn.Sequential(module))
    assert not found
    assert (left_out.name, left_out.class_name) == ("0", type(module).__name__)
    assert re.search(reason, left_out.reason)


def test_other_modules_are_not_spoken_of():
    model = nn.Sequential(nn.Linear(2, 2), nn.Softmax(-1), Gate(), nn.TransformerEncoderLayer(4, 1))
    model.extend([Router(), torch.fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2), nn.Softmax(1)))])
    found, left_out = find_attention(model)
    assert list(found) == ["3.self_attn"] and not left_out


def test_innermost_attention_is_taken_and_its_wrappers_are_not_spoken_of():
    found, left_out = find_attention(nn.Sequential(AttentionWrapper(SoftmaxAttn())))
    assert list(found) == ["0.inner"] and not left_out
    found, left_out = find_attention(nn.Sequential(AttentionWrapper(XCA())))
    assert not found and [out.name for out in left_out] == ["0.inner"]


def test_attention_beside_attention_inside_it_is_reported():
    found, [left_out] = find_attention(MixedAttention(SoftmaxAttn()))
    assert list(found) == ["inner"]
    assert (left_out.name, left_out.class_name) == ("", "MixedAttention")
    assert "beside" in left_out.reason


def test_what_is_inside_equipped_attention_is_part_of_it():
    attention = SoftmaxAttn()
    attention.gate = GateAttention()
    found, left_out = find_attention(attention)
    assert list(found) == [""] and not left_out


@pytest.mark.parametrize("name", ["unit", "observe"])
def test_attention_that_takes_a_name_we_need_is_left_out(name):
    attention = SoftmaxAttn()
    setattr(attention, name, 3)
    [left_out] = find_attention(attention)[1]
    assert f"an attribute {name} of its own" in left_out.reason


def test_properties_are_not_run():
    class PropertyAttention(SoftmaxAttn):
        @property
        def config(self):
            raise RuntimeError("not yet")

    assert list(find_attention(PropertyAttention())[0]) == [""]


@pytest.mark.parametrize("name", ["flash_attention_2", "flex_attention", "paged|eager"])
def test_implementations_that_cannot_be_equipped_are_left_out_by_name(name):
    attention = SoftmaxAttn()
    attention.config = SimpleNamespace(_attn_implementation=name)
    [left_out] = find_attention(attention)[1]
    assert name in left_out.reason and 'set_attn_implementation("sdpa")' in left_out.reason
    for name in ("sdpa", "eager", None):
        attention.config._attn_implementation = name
        assert not find_attention(attention)[1]


def test_our_own_module_is_left_out_while_it_has_dropout():
    attention = MultiheadAttention(4, 1, dropout=0.1)
    [left_out] = find_attention(attention)[1]
    assert "set its dropout to 0" in left_out.reason
    attention.dropout = 0.0
    assert list(find_attention(attention)[0]) == [""]


def test_scripted_attention_is_left_out():
    scripted = torch.jit.script(nn.MultiheadAttention(4, 1))
    assert not find_attention(nn.Sequential(scripted))[0]


def audit():
    """Return class -> verdict as people decided it, from attention_audit.txt."""
    lines = AUDIT.read_text().splitlines()
    rows = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    return dict(rows)


def classes_of(module):
    """The classes of a module that look like attention."""
    for cls in vars(importlib.import_module(module)).values():
        is_module = inspect.isclass(cls) and issubclass(cls, nn.Module)
        if is_module and cls.__module__ == module and looks_like_attention(cls):
            yield cls


def skip_unless_audited(library):
    """People have looked at one release of each library; others have other classes."""
    pytest.importorskip(library)
    installed = importlib.metadata.version(library)
    if not f"{installed}.".startswith(f"{AUDITED[library]}."):
        pytest.skip(f"the audit is of {library} {AUDITED[library]}, here is {installed}")


def modules_of(library):
    package = importlib.import_module(library)
    return [m.name for m in pkgutil.walk_packages(package.__path__, f"{library}.") if not m.ispkg]


LIBRARIES = ["timm.layers", "timm.models", "torchvision.models"]
LIBRARIES += [pytest.param("transformers.models", marks=pytest.mark.slow)]  # vision models only


@pytest.mark.filterwarnings("ignore:Importing from timm")
@pytest.mark.parametrize("library", LIBRARIES)
def test_every_attention_class_of_a_library_has_been_looked_at(library):
    skip_unless_audited(library.partition(".")[0])
    expected = {name: why for name, why in audit().items() if name.startswith(library)}
    if library == "transformers.models":
        modules = {name.rpartition(".")[0] for name in expected}
    else:
        modules = modules_of(library)
    found = {
        f"{cls.__module__}.{cls.__name__}": why_not_class(cls) or "equipped"
        for module in modules
        for cls in classes_of(module)
    }
    assert found == expected
