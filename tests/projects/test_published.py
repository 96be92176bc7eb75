"""The registries of published weights: each entry is complete and makes its model."""

import importlib
import re

import pytest
import torch

from dropkey_core.engine import instantiate, load_config
from dropkey_core.engine.build import published_weights
from dropkey_core.engine.paths import PROJECT_ROOT
from projects.classification.t2t import T2TViT

PROJECTS = ("detr", "qpic", "metro", "classification")
REGISTRIES = {
    project: importlib.import_module(f"projects.{project}.published").PUBLISHED
    for project in PROJECTS
}
ENTRIES = [(name, entry) for registry in REGISTRIES.values() for name, entry in registry.items()]


def test_names_belong_to_one_project():
    assert len(dict(ENTRIES)) == len(ENTRIES)


@pytest.mark.parametrize(("name", "entry"), ENTRIES, ids=[name for name, _ in ENTRIES])
def test_an_entry_is_complete_and_its_config_valid(name, entry):
    assert entry.url.startswith("https://") or "https://" in entry.notes
    assert entry.sha256 in entry.url
    assert entry.licence and entry.metric and entry.source
    config = load_config(entry.config, entry.overrides)
    assert published_weights(config.model)[name] is entry  # for train.init_checkpoint


@pytest.mark.slow
@pytest.mark.parametrize("name", REGISTRIES["classification"])
def test_classifiers_have_the_size_that_their_name_says(name):
    entry = REGISTRIES["classification"][name]
    config = load_config(entry.config, entry.overrides)
    with torch.device("meta"):  # names and shapes alone
        model = instantiate(config.model, "model")
    digits = [part for part in name.split("-") if part.isdigit() and len(part) == 3]
    size = int(digits[0]) if digits else 224
    assert model.image_size == config.dataloader.test.mapper.image_size == size
    if name.startswith("t2t"):
        assert len(model.network.blocks) == int(name.removesuffix(f"-{size}").rsplit("-", 1)[1])
        softmax = not hasattr(model.network.tokens_to_token.attention1, "w")
        assert softmax == ("-t-" in name.removeprefix("t2t"))
    else:
        blocks = {"1": 18, "2": 24, "3": 36, "4": 36, "5": 48}[name[6]]
        names = [n for n, _ in model.network.named_modules()]
        assert sum(bool(re.fullmatch(r"network\.\d+\.\d+", n)) for n in names) == blocks


def test_an_official_file_becomes_a_classifier(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(0)
    state = T2TViT(1000, 224, embed_dim=256, depth=7, num_heads=4, mlp_ratio=2.0).state_dict()
    averaged = {f"module.{name}": tensor for name, tensor in state.items()}

    def download(url, file, hash_prefix, progress):
        torch.save({"state_dict": {}, "state_dict_ema": averaged}, file)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    entry = REGISTRIES["classification"]["t2t-vit-7"]
    content = entry.read(entry.fetch())
    expected = {f"network.{name}": tensor for name, tensor in state.items()}
    torch.testing.assert_close(content["model"], expected, rtol=0, atol=0)


def test_the_page_lists_them_all():
    page = (PROJECT_ROOT / "docs" / "weights.md").read_text()
    for name, entry in ENTRIES:
        (row,) = (line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        assert entry.url in row and entry.sha256 in row
        assert " `model." not in row or f"| `{' '.join(entry.overrides)}` |" in row
        numbers = re.findall(r"\b\d\d\.\d+", entry.metric)
        assert [number for number in numbers if f" {number} |" in row] == numbers
