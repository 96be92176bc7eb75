import json
import os
from pathlib import Path

import pytest
import torch

from projects.classification import build_model

REFERENCE_KEYS = os.environ.get("DROPKEY_REFERENCE_KEYS")
ENTRIES = {  # architecture -> tensors in the official state dict, numbers in its parameters
    "t2t_vit_14": (188, 21_545_550),
    "t2t_vit_19": (243, 39_177_422),
    "t2t_vit_24": (298, 64_105_934),
    "volo_d1": (260, 26_632_040),
    "volo_d2": (330, 58_678_336),
    "volo_d3": (466, 86_325_072),
}


def official(architecture):
    with torch.device("meta"):
        return build_model(architecture).network


@pytest.mark.parametrize("architecture", ENTRIES)
def test_has_the_official_number_of_entries(architecture):
    network = official(architecture)
    numbers = sum(parameter.numel() for parameter in network.parameters())
    assert (len(network.state_dict()), numbers) == ENTRIES[architecture]


@pytest.mark.skipif(not REFERENCE_KEYS, reason="DROPKEY_REFERENCE_KEYS names no folder")
@pytest.mark.parametrize("architecture", ENTRIES)
def test_equals_the_official_table(architecture):
    """Against <folder>/<architecture>_keys.json: {"keys": {name: [shape, dtype, kind, ...]}}."""
    file = Path(REFERENCE_KEYS) / f"{architecture}_keys.json"
    table = json.loads(file.read_text(encoding="utf-8"))["keys"]
    entries = {
        name: (list(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        for name, tensor in official(architecture).state_dict().items()
    }
    assert entries == {name: (shape, dtype) for name, (shape, dtype, *_) in table.items()}
