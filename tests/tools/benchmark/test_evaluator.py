from evaluator import main

SMALL = ["--images", "20", "--repeats", "2"]

# The interface of QPIC's evaluator, and an answer of its own.
STAND_IN = """
class HICOEvaluator:
    def __init__(self, preds, gts, subject_category_id, rare, non_rare, correct_mat):
        assert preds[0]["boxes"].shape == (128, 4) and preds[0]["labels"][:64].tolist() == [0] * 64
        assert preds[0]["obj_ids"].tolist() == list(range(64, 128))
        assert len(gts) == 20 and correct_mat.shape == (117, 80) and len(rare) == 138
        self.gt_triplets = [(0, 1, 2)]
        self.tp, self.score = {(0, 1, 2): [1, 0]}, {(0, 1, 2): [1, 2]}

    def evaluate(self):
        return {"mAP": 0.5, "mAP rare": 0.5, "mAP non-rare": 0.5, "mean max recall": 0.5}
"""


def test_ours_alone(capsys):
    assert main(SMALL) == 0
    printed = capsys.readouterr().out
    assert "| evaluation | HicoDetEvaluator |" in printed
    assert "largest difference" not in printed


def test_a_difference_is_shown(tmp_path, capsys):
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "hico_eval.py").write_text(STAND_IN)
    assert main([*SMALL, "--reference", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| evaluation | QPIC's evaluator |")
    difference, triplets = lines[-1].removeprefix("largest difference: ").split("; ")
    assert float(difference) > 1e-3
    assert not triplets.startswith("true and false positives differ in 0 of")
