"""Use the installed library as a stranger does; ``make package`` runs it outside the checkout."""

import importlib.metadata
import importlib.util
from pathlib import Path

import torch
from torch import nn

import dropkey_core
from dropkey_core import apply_dropkey, check_dropkey

here = Path(__file__).parents[1]
assert not Path(dropkey_core.__file__).is_relative_to(here / "dropkey_core"), dropkey_core.__file__
assert dropkey_core.__version__ == importlib.metadata.version("dropkey")
assert importlib.metadata.requires("dropkey")[0].startswith("torch")
for name in ("projects", "tools", "tests", "datasets"):
    assert importlib.util.find_spec(name) is None, f"{name} is installed too"

layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
print(apply_dropkey(model, 0.3))
report = check_dropkey(model, torch.randn(2, 50, 32))
print(report)
lost = [float(row.split()[-1]) for row in str(report).splitlines() if "self_attn" in row]
assert len(lost) == 2, lost
assert abs(lost[0] - 0.3) < 0.05, lost
assert abs(lost[1] - 0.15) < 0.05, lost
