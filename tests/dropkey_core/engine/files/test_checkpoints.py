import io
import os
import pickle
import zipfile
from collections import OrderedDict
from functools import partial
from pathlib import Path

import pytest
import torch

from dropkey_core.engine import UserError, read_checkpoint
from dropkey_core.engine.checkpoint import load_state
from dropkey_core.engine.files.checkpoints import check_cost


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("ran",))


def save_zip(path, zipped=True):
    torch.save({"model": {"a": Evil()}}, path, _use_new_zipfile_serialization=zipped)


def save_pickle(protocol):
    return lambda path: path.write_bytes(pickle.dumps({"model": Evil()}, protocol))


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "w.pth"


NAMED = r"is refused: only tensors .*, and it asks to run '(posix|nt)\.mkdir'$"
UNKNOWN = r"cannot be read as tensors and plain values: Unsupported operand \d+$"
LEGACY = partial(save_zip, zipped=False)


@pytest.mark.parametrize(
    ("save", "said"),
    [*((save, NAMED) for save in (save_zip, LEGACY, *map(save_pickle, (1, 2, 3)))),
     *((save_pickle(protocol), UNKNOWN) for protocol in (0, 4, 5))],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_is_refused_in_every_format(path, save, said):
    save(path)
    with pytest.raises(UserError, match=rf"^the checkpoint {path} \(from --weights\) {said}"):
        read_checkpoint(path, "--weights")
    assert [file.name for file in path.parent.iterdir()] == ["w.pth"]


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_programs_are_refused(path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(path)
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
    with pytest.raises(UserError, match=r"its parts claim 4,000,\d\d\d bytes, the file has \d,"):
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
    with pytest.raises(UserError, match="cannot be read as tensors and plain values"):
        read_checkpoint(path)


def test_shapes_that_are_made_up_are_refused(path):
    torch.save({"model": {"a": torch.zeros(1).expand(10**12)}}, path)
    with pytest.raises(UserError, match=r"claim 4,000,000,000,000 bytes, the file has 1,\d"):
        read_checkpoint(path)


def test_tied_and_slightly_expanded_tensors_are_read(path):
    tied = torch.ones(3, 4)
    torch.save({"a": tied, "b": tied.T, "c": torch.ones(1).expand(512)}, path)
    content = read_checkpoint(path)
    assert content["b"].shape == (4, 3)
    assert content["c"].sum() == 512


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


START = b"\x80\x02}X\x05\x00\x00\x00model}"  # {"model": {


def pairs_of_pairs(depth):
    """A pickle of a tuple whose hash asks 2**depth times for that of None."""
    levels = (b"h%c\x86q%c" % (level, level + 1) for level in range(depth))
    return b"Nq\x00" + b"".join(levels)


HOSTILE = {
    "a key": START + pairs_of_pairs(60) + b"K\x01ss.",
    "one of several keys": START + b"(" + pairs_of_pairs(60) + b"K\x01K\x02K\x03us.",
    "of one's own class": START + b"ctorch\nSize\n" + pairs_of_pairs(60) + b"\x85RK\x01ss.",
    "in a set": START + b"c__builtin__\nset\n](" + pairs_of_pairs(60) + b"e\x85Rs.",
    "in a set, of a list that is filled later": START + b"]q\xf0(" + pairs_of_pairs(60)
    + b"ec__builtin__\nset\nh\xf0\x85Rs.",
    "name of a storage": b"\x80\x02(X\x07\0\0\0storagectorch\nFloatStorage\n" + pairs_of_pairs(60)
    + b"X\x03\0\0\0cpuK\x01tQ.",
    "attribute": START + b"cargparse\nNamespace\n)\x81]" + pairs_of_pairs(60) + b"K\x01\x86abs.",
    "called, and shown in the error": START + pairs_of_pairs(60) + b")R.",
    "a thousand of a thousand of a thousand": START
    + b"(" + b"N" * 1000 + b"tq\x00" + b"(" + b"h\x00" * 1000 + b"tq\x01"
    + b"(" + b"h\x01" * 1000 + b"tK\x01ss.",
    "many that are not so bad": START + b"(" + pairs_of_pairs(16) + b"q\x20"
    + b"K\x01h\x20" * 200 + b"K\x01us.",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_takes_long_to_hash_is_noticed_at_once(name):
    with pytest.raises(ValueError, match="years to hash"):
        check_cost(io.BytesIO(HOSTILE[name]))


def test_a_long_name_and_a_bytearray_of_any_size_are_noticed():
    pickle_of = b"\x80\x02c%s\nB\n."  # its name is that of the module, a blank, and B
    with pytest.raises(ValueError, match="a name of 1,002 characters"):
        check_cost(io.BytesIO(pickle_of % (b"a" * 1000)))
    check_cost(io.BytesIO(pickle_of % (b"a" * 998)))
    with pytest.raises(ValueError, match="a bytearray"):
        check_cost(io.BytesIO(b"\x80\x02c__builtin__\nbytearray\nJ\x00\x00\x00\x70\x85R."))


def test_what_occurs_is_not():
    content = {
        "model": OrderedDict((f"layer{n}", [n, (1, (2, 3)), {"a": None}]) for n in range(1000)),
        (1, "a"): {(n, (n, n)) for n in range(1000)},
        "state": tuple(range(10_000)),
        "same": [frozenset("ab")] * 3,
    }
    file = io.BytesIO(pickle.dumps(content, 2) + pickle.dumps("the next", 2))
    check_cost(file)
    assert pickle.load(file) == "the next"


@pytest.mark.parametrize(
    "content", [b"", b"no pickle", b"\x80\x02h\x05.", b"0000", b"u.", b"t.", b"q\x00.", b"2."]
)
def test_what_is_no_sound_pickle_is_left_to_its_reader(content):
    check_cost(io.BytesIO(content))


def test_of_every_format_of_checkpoints(path):
    hostile = HOSTILE["a key"]
    torch.save({"model": {}}, path)
    rewritten(path, lambda name, content: hostile if name.endswith("data.pkl") else content)
    torch.save({"model": {}}, "legacy.pth", _use_new_zipfile_serialization=False)
    file = io.BytesIO(Path("legacy.pth").read_bytes())
    for _ in range(3):
        pickle.load(file)  # what stands before the content
    Path("legacy.pth").write_bytes(file.getvalue()[: file.tell()] + hostile)
    Path("bare.pth").write_bytes(hostile)
    for name in ("w.pth", "legacy.pth", "bare.pth"):
        with pytest.raises(UserError, match=f"{name} .*: it has keys of tuples within"):
            read_checkpoint(name)
