import io
import os
import pickle
import tarfile
import zipfile

import pytest
import torch

from dropkey_core.engine import UserError, read_checkpoint
from dropkey_core.engine.checkpoint import convert_checkpoint, load_state


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("ran",))


def save_zip(path):
    torch.save({"model": {"a": Evil()}}, path)


def save_legacy(path):
    torch.save({"model": Evil()}, path, _use_new_zipfile_serialization=False)


def save_pickle(protocol):
    return lambda path: path.write_bytes(pickle.dumps({"model": Evil()}, protocol))


def save_tar(path):
    """torch's format before 2017: a tar of pickles."""
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            content = pickle.dumps(Evil(), protocol=2)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def save_script(path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(path)


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "w.pth"


@pytest.mark.parametrize("save", [save_zip, save_legacy, *map(save_pickle, range(6)), save_tar])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_is_refused_by_its_name_in_every_format(path, save):
    save(path)
    wanted = rf"the checkpoint {path} \(from --weights\).* asks to run '(posix|nt)\.mkdir'"
    with pytest.raises(UserError, match=wanted) as error:
        read_checkpoint(path, "--weights")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"asks to run '(posix|nt)\.mkdir'"):
        convert_checkpoint(path, path.with_name("c.pth"), pytest.fail)
    assert [file.name for file in path.parent.iterdir()] == ["w.pth"]


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_programs_are_refused(path):
    save_script(path)
    with pytest.raises(UserError, match=r"w\.pth .* TorchScript archive.* save the state_dict"):
        read_checkpoint(path)


def rewritten(path, change, **how):
    """Write an archive anew, each member as ``change`` of (name, content) makes it."""
    with zipfile.ZipFile(path) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w", **how) as archive:
        for name, content in members:
            archive.writestr(name, change(name, content))


def test_a_compressed_archive_is_not_unpacked(path):
    torch.save({"a": torch.zeros(10**6)}, path)
    rewritten(path, lambda name, content: content, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10**5
    with pytest.raises(UserError, match=r"'w/data.pkl' in it is compressed, which torch never"):
        read_checkpoint(path)


def test_parts_that_lie_over_each_other_are_refused(path):
    torch.save({"a": torch.zeros(10**4)}, path)
    with zipfile.ZipFile(path, "a") as archive:
        data = archive.getinfo("w/data/0")
        for number in range(1, 9):  # names of the one there is
            entry = zipfile.ZipInfo(f"w/data/{number}")
            entry.header_offset, entry.file_size = data.header_offset, data.file_size
            entry.compress_size, entry.CRC = data.compress_size, data.CRC
            archive.filelist.append(entry)
        archive._didModify = True
    with pytest.raises(UserError, match=r"its parts claim 3\d\d,\d\d\d bytes, the file has 4\d,"):
        read_checkpoint(path)


def test_a_tensor_larger_than_what_is_stored_of_it(path):
    torch.save({"a": torch.zeros(10**4)}, path)
    rewritten(path, lambda name, content: content[:16] if name.endswith("data/0") else content)
    with pytest.raises(UserError, match="cannot read the checkpoint"):
        read_checkpoint(path)


def test_shapes_that_are_made_up_are_refused(path):
    torch.save({"model": {"a": torch.zeros(1).expand(10**12)}}, path)
    with pytest.raises(UserError, match=r"claim 4,000,000,000,000 bytes, but 4 are stored"):
        read_checkpoint(path)
    torch.save({"model": [{"a": torch.zeros(5, device="meta")}]}, path)
    with pytest.raises(UserError, match="'a' is no dense tensor"):
        read_checkpoint(path)
    torch.save({"a": torch.ones(1).expand(100), "b": [torch.eye(2).to_sparse()]}, path)
    with pytest.raises(UserError, match="'b' is no dense tensor"):
        read_checkpoint(path)


def test_tied_and_slightly_expanded_tensors_are_read(path):
    tied = torch.ones(3, 4)
    torch.save({"a": tied, "b": tied.T, "c": torch.ones(1).expand(512)}, path)
    content = read_checkpoint(path)
    assert content["b"].shape == (4, 3)
    assert content["c"].sum() == 512


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    for path in (tmp_path / "pipe.pth", "/dev/zero", tmp_path):
        with pytest.raises(UserError, match=r"cannot be read: it is a (folder|device or a pipe)"):
            read_checkpoint(path)


def test_weights_that_are_none_and_weights_that_are_broken():
    model = torch.nn.Linear(2, 2)
    with pytest.raises(UserError, match=r"w\.pth holds no weights by name but \[1, 2\]"):
        load_state(model, [1, 2], "w.pth")
    state = {"weight": torch.full((2, 2), torch.nan), "bias": torch.zeros(2)}
    said = load_state(model, state, "w.pth")
    assert said == "loaded 2 of 2 tensors from w.pth; beware, NaN or infinity in 1 (weight)"


def test_a_downloaded_file_is_checked_like_any_other(path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(path.parent))
    asked = []

    def download(url, file, hash_prefix, progress):
        asked.append(hash_prefix)
        save_zip(file)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    for name in ("net-0123abcd.pth", "net-small.pth", "net-fade.pth"):
        with pytest.raises(UserError, match=rf"https://x\.org/{name} .*'(posix|nt)\.mkdir'"):
            read_checkpoint(f"https://x.org/{name}")
    assert asked == ["0123abcd", None, None]
    with pytest.raises(UserError, match="ends in no name of a file"):
        read_checkpoint("https://x.org/")
    assert not (path.parent / "ran").exists()
