import numpy as np
import pytest
import torch

pytest.importorskip("smplx", reason="the check poses bodies with smplx")

from dropkey_core.engine import UserError
from projects.metro.body.model import BodyModel
from projects.metro.humbi.check import KEYPOINTS, check_meshes
from projects.metro.humbi.files import keypoint_file, vertex_file, write_vertices
from projects.metro.humbi.prepare import prepare
from tests.projects.metro.humbi_set import SCALE, write_subject


@pytest.fixture
def checked(tmp_path, toy_body, toy_body_file, capsys):
    """Prepares a set of two subjects and checks it; returns the lines that the check prints."""
    model = BodyModel(toy_body)

    def mesh(fit):
        pose, betas = (
            torch.tensor(one[None], dtype=torch.float32) for one in (fit.pose, fit.betas)
        )
        return SCALE * model(pose, betas)[0].double().numpy() + fit.translation

    for subject in (1, 2):
        write_subject(tmp_path / "Body_1_8", subject, [1, 2, 3], 60, mesh)
    index = prepare(tmp_path, num_vertices=60)

    def check(count=100):
        capsys.readouterr()
        check_meshes(tmp_path, index, toy_body_file, count)
        return capsys.readouterr().out.splitlines()

    return check


def number_before(unit, text):
    return float(text.split(f" {unit}")[0].split()[-1])


def test_sound_meshes_agree_to_the_micrometre(checked):
    mesh, projection = checked()
    assert mesh.startswith("checked 6 of 6 frames: scale * SMPL + translation is the mesh to")
    assert number_before("mm", mesh) < 0.002  # float32
    assert number_before("pixels", projection) < 1e-6


def test_only_a_sample_is_looked_at(checked):
    assert checked(4)[0].startswith("checked 4 of 6 frames")


def test_a_mesh_that_is_another_is_named(checked, tmp_path):
    path = vertex_file(tmp_path / "Body_1_8/subject_2/body", 3)
    vertices = np.loadtxt(path)
    vertices[7] += [0.003 * SCALE, 0.004 * SCALE, 0]  # 5 mm of the body's own
    write_vertices(path, vertices)
    with pytest.raises(UserError, match=f"1 of 6 meshes are not .* worst: {path}, 5 mm off"):
        checked()


def test_keypoints_that_were_found_are_compared(checked, tmp_path, toy_body):
    body = tmp_path / "Body_1_8/subject_1/body"
    joints = toy_body.joints(np.loadtxt(vertex_file(body, 2)))
    keypoints = np.zeros((25, 3))  # zeros: not found
    keypoints[list(KEYPOINTS[:3])] = joints[:3] + np.array([0, 0.05 * SCALE, 0])
    keypoints[KEYPOINTS[3]] = np.nan
    write_vertices(keypoint_file(body, 2), keypoints)
    assert checked()[1] == "keypoints and the mesh's joints: 50 mm apart (median)"


def test_another_calibration_in_project_txt_is_told(checked, tmp_path):
    path = tmp_path / "Body_1_8/subject_1/body/project.txt"
    lines = path.read_text().splitlines()
    first = lines[4].split()
    lines[4] = " ".join([*first[:3], str(float(first[3]) + 50)])  # of some 500, at depth 5
    path.write_text("\n".join(lines))
    assert 8 < number_before("pixels", checked()[1]) < 12


def test_files_that_are_not_there_are_not_compared(checked, tmp_path):
    for subject in (1, 2):
        (tmp_path / f"Body_1_8/subject_{subject}/body/project.txt").unlink()
    keypoint_file(tmp_path / "Body_1_8/subject_1/body", 1).unlink()
    assert len(checked()) == 1
