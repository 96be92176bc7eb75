import importlib

import pytest


@pytest.mark.parametrize(
    ("benchmark", "options", "said"),
    [
        ("evaluator", ["--images", "2"], "hitachi-rd-cv/qpic: no datasets/hico_eval.py"),
        ("mesh", [], "microsoft/MeshTransformer: no metro/utils/metric_pampjpe.py"),
        (
            "model",
            ["--config", "projects/detr/demo.yaml", "--batch", "1", "32", "32"],
            "facebookresearch/detr: no models/detr.py",
        ),
    ],
)
def test_another_folder_is_one_line_and_exit_2(benchmark, options, said, capsys):
    assert importlib.import_module(benchmark).main([*options, "--reference", "/nowhere"]) == 2
    assert capsys.readouterr().err == f"error: /nowhere is no checkout of {said}\n"
