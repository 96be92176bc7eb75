import sys

import cv2
import numpy as np
import pytest
import torch
from mannequin import make_mannequin

from dropkey_core.engine import instantiate, load_config
from dropkey_core.engine.paths import PROJECT_ROOT

pytestmark = pytest.mark.slow

pytest.importorskip("smplx", reason="the set's people are posed with smplx")
pytest.importorskip("trimesh", reason="it writes pages and mesh files")

CONFIG = "projects/metro/demo.yaml"
SMALL = ["model.image_size=32", "model.embed_dims=[8,8,8]", "model.token_dims=[8,8]"]
SMALL += ["model.ffn_dim=8", "dataloader.test.batch_size=1"]
VIEWS = [f"subject_2_frame_{frame}_camera_{camera}" for frame in (1, 2) for camera in (0, 7)]


@pytest.fixture(scope="module")
def main(load_script):
    return load_script("tools/visualize_mesh").main


@pytest.fixture(scope="module")
def root(load_script, tmp_path_factory):
    """A dataset root with four views of one test subject, and two runs."""
    root = tmp_path_factory.mktemp("root")
    make_bodies = load_script("datasets/make_bodies")
    body = make_mannequin((1200, 400, 120), cell=0.01, rounds=1)
    settings = make_bodies.PeopleSettings(
        num_train=1, num_val=1, num_frames=2, num_cameras=2, image_size=64
    )
    make_bodies.make_bodies(root / "bodies", settings, body)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DROPKEY_DATASETS", str(root))
        config = load_config(CONFIG, SMALL)
        for seed, name in enumerate(("baseline", "dropkey")):
            (root / name).mkdir()
            text = (PROJECT_ROOT / CONFIG).read_text()
            (root / name / "config.yaml").write_text(text)
            torch.manual_seed(seed)
            model = instantiate(config.model, "model")
            torch.nn.init.constant_(model.camera_head.output.bias, 0.5)  # somebody is in view
            torch.save({"model": model.state_dict()}, root / name / "last.pth")
    return root


@pytest.fixture
def workplace(root, tmp_path, monkeypatch):
    """A working folder with images."""
    monkeypatch.setenv("DROPKEY_DATASETS", str(root))
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("mine.png", np.full((40, 60, 3), 90, np.uint8))
    return tmp_path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_pictures_of_the_test_set_and_a_page(main, root, workplace, capsys):
    command = ["--run", str(root / "dropkey"), "--output", "out", *SMALL]
    assert main(command) == 0
    assert names(workplace / "out") == [*(f"{view}_mesh.png" for view in VIEWS), "validation.png"]
    lines = capsys.readouterr().out.splitlines()
    assert "4 of 4 images" in lines
    assert lines[-1] == "out/validation.png"
    page = cv2.imread("out/validation.png")
    assert page.shape == (54 + 4 * (60 + 320 + 16), 16 + 5 * 336, 3)


def test_any_images_with_files_of_their_meshes(main, root, workplace, monkeypatch):
    command = ["--run", str(root / "dropkey"), "--output", "out", "--box", "10,5,30"]
    command += ["--files", "html", "obj", "--images", "mine.png", *SMALL]
    assert main(command) == 0
    assert names(workplace / "out") == [
        "meshes.png",
        "mine_mesh.html",
        "mine_mesh.obj",
        "mine_mesh.png",
    ]
    assert cv2.imread("out/mine_mesh.png").shape == (60 + 320 + 16, 16 + 3 * 336, 3)


def test_attention_of_several_models(main, root, workplace):
    command = ["--attention", "--joint", "L_Knee", "--num-images", "2", "--output", "out", *SMALL]
    command += ["--compare", f"baseline={root / 'baseline'}", f"dropkey={root / 'dropkey'}"]
    assert main(command) == 0
    chosen = [f"{VIEWS[number]}_attention.png" for number in (0, 2)]
    assert names(workplace / "out") == ["attention.png", *chosen]
    assert cv2.imread("out/attention.png").shape == (114 + 2 * (60 + 320 + 16), 16 + 3 * 336, 3)


def test_missing_trimesh_is_told_before_any_work(main, root, workplace, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "trimesh", None)
    assert main(["--run", str(root / "dropkey"), "--files", "glb"]) == 2
    captured = capsys.readouterr()
    assert captured.err == (
        "error: writing meshes and pages needs trimesh: pip install -e '.[mesh]'\n"
    )
    assert captured.out == ""


@pytest.mark.parametrize("options", [[], ["--attention"]])
def test_images_need_neither_dataset_nor_smplx(main, root, workplace, monkeypatch, options):
    monkeypatch.setitem(sys.modules, "smplx", None)
    monkeypatch.setenv("DROPKEY_DATASETS", str(workplace))
    command = ["--run", str(root / "dropkey"), "--output", "out", "--images", "mine.png", *SMALL]
    assert main([*command, f"dataset.body={root / 'bodies' / 'body.npz'}", *options]) == 0
    page, picture = ("attention", "attention") if options else ("meshes", "mesh")
    assert names(workplace / "out") == [f"{page}.png", f"mine_{picture}.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--run", "{run}", "--images", "cut.png"], "cut.png cannot be read as an image"),
        (["--run", "{run}", "--num-images", "0"], "--num-images must be at least 1, got 0"),
        (["--run", "{run}", "--box", "1,2,3"], "--box is for --images"),
        (["--run", "{run}", "--images", "mine.png", "--box", "1,2"],
         "--box takes X,Y,SIDE such as 400,80,600, got 1,2"),
        (["--run", "{run}", "--images", "mine.png", "--box", "1,2,-3"],
         "--box takes pixels, the side above 0, got 1,2,-3"),
        (["--run", "{run}", "--images", "mine.png", "--box", "100,2,3"],
         "the square 100,2,3 is outside of mine.png, which has 60 x 40 pixels"),
        (["--run", "{run}", "--attention", "--joint", "Wrist"],
         "--joint must be one of R_Ankle, R_Knee, R_Hip, L_Hip, "),
        (["--run", "{run}", "--compare", "a={run}"], "--compare is for --attention"),
        (["--attention", "--compare", "{run}"],
         "--compare takes NAME=RUN such as dropkey=output/metro/dropkey, got {run}"),
        (["--attention", "--compare", "a={run}", "a={run}"], "--compare names a twice"),
        (["--attention", "--compare", "a=no"],
         "--compare a: {here}/no is no folder of a run"),
        (["--run", "{run}", "--weights", "other.pth"], "other.pth is no checkpoint of METRO"),
        (["--run", "{run}", "dataset.body=no.npz"], "body model not found: {root}/no.npz"),
        (["--run", "{run}", "--output", "mine.png"], "cannot write mine.png"),
    ],
)  # fmt: skip
def test_user_error_is_one_line_and_exit_2(main, root, workplace, capsys, arguments, message):
    torch.save({"model": {"weight": torch.zeros(1)}}, "other.pth")
    (workplace / "cut.png").write_bytes((workplace / "mine.png").read_bytes()[:60])
    values = {"run": root / "dropkey", "here": workplace, "root": root}
    assert main([word.format(**values) for word in [*SMALL, *arguments]]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message.format(**values)}")
    assert error.count("\n") == 1
