import mesh as benchmark
import numpy as np
import pytest

from projects.metro.body.model import Body, write_body
from projects.metro.body.skeleton import SMPL_PARENTS

SMALL = ["--repeats", "2"]

# The interface of METRO's alignment, and an answer of its own.
STAND_IN = """
def compute_similarity_transform_batch(S1, S2):
    assert S1.shape == S2.shape == (20, 14, 3) and S1.dtype == S2.dtype == "float64"
    return S2 + 100
"""


@pytest.fixture
def main(monkeypatch):
    """The command with few skeletons and meshes."""
    monkeypatch.setattr(benchmark, "NUM_SKELETONS", 20)
    monkeypatch.setattr(benchmark, "NUM_BATCHES", 2)
    return benchmark.main


def test_ours_alone(main, capsys):
    assert main(SMALL) == 0
    printed = capsys.readouterr().out
    assert "| alignment | procrustes_align |" in printed
    assert "difference" not in printed


def test_a_difference_is_shown(main, tmp_path, capsys):
    (tmp_path / "metro" / "utils").mkdir(parents=True)
    (tmp_path / "metro" / "utils" / "metric_pampjpe.py").write_text(STAND_IN)
    assert main([*SMALL, "--reference", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| alignment | METRO's loop |")
    difference = float(lines[-1].removeprefix("largest difference: ").removesuffix(" m"))
    assert difference == pytest.approx(100, rel=0.02)


@pytest.mark.slow
def test_meshes_of_a_body_are_evaluated_and_drawn(main, tmp_path, capsys):
    write_body(tmp_path / "body.npz", tetrahedron())
    assert main([*SMALL, "--body", str(tmp_path / "body.npz")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[3].startswith("| evaluation | MeshEvaluator |")
    assert lines[4].startswith("| drawing, 224 x 224 | render |")


def tetrahedron():
    corners = np.arange(4)
    faces = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], np.int32)
    return Body(
        template=np.eye(4, 3),
        faces=faces,
        shape_directions=np.zeros((4, 3, 10)),
        pose_directions=np.zeros((4, 3, 207)),
        joint_regressor=np.eye(4)[np.arange(24) % 4],
        parents=np.array(SMPL_PARENTS),
        skin_weights=np.full((4, 24), 1 / 24),
        h36m_regressor=np.eye(4)[np.arange(17) % 4],
        coarse_vertices=(corners, corners),
        coarse_faces=(faces, faces),
    )
