import io
import pickle
import zipfile
from collections import OrderedDict

import pytest
import torch

from dropkey_core.engine import UserError, read_checkpoint
from dropkey_core.engine.files.pickle_cost import excess

START = b"\x80\x02}X\x05\x00\x00\x00model}"  # {"model": {


def pairs_of_pairs(depth):
    """A pickle of a tuple whose hash asks 2**depth times for that of None."""
    levels = (b"h%c\x86q%c" % (level, level + 1) for level in range(depth))
    return b"Nq\x00" + b"".join(levels)


HOSTILE = {
    "a key": START + pairs_of_pairs(60) + b"K\x01ss.",
    "one of several keys": START + b"(" + pairs_of_pairs(60) + b"K\x01K\x02K\x03us.",
    "of a dict made at once": b"(" + pairs_of_pairs(60) + b"K\x01d.",
    "in a set": b"\x8f(" + pairs_of_pairs(60) + b"\x90.",
    "in a frozenset": b"(" + pairs_of_pairs(60) + b"\x91.",
    "of one's own class": START + b"ctorch\nSize\n" + pairs_of_pairs(60) + b"\x85RK\x01ss.",
    "made of copies": START + b"N" + b"2\x86" * 60 + b"K\x01ss.",
    "a thousand of a thousand of a thousand": START
    + b"(" + b"N" * 1000 + b"tq\x00" + b"0(" + b"h\x00" * 1000 + b"tq\x01"
    + b"0(" + b"h\x01" * 1000 + b"tK\x01ss.",
    "many that are not so bad": START + b"(" + pairs_of_pairs(16) + b"q\x20"
    + b"K\x01h\x20" * 200 + b"K\x01us.",
    "numbered by the reader": b"\x80\x04}(N\x94" + b"".join(b"h%c\x86\x94" % n for n in range(60))
    + b"K\x01u.",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_takes_long_to_hash_is_noticed_at_once(name):
    assert "years to hash" in excess(io.BytesIO(HOSTILE[name]))


def test_a_long_name_is_noticed():
    pickle_of = b"\x80\x02c%s\nB\n."  # its name is that of the module, a blank, and B
    assert excess(io.BytesIO(pickle_of % (b"a" * 1000))) == "a name of 1,002 characters"
    assert excess(io.BytesIO(pickle_of % (b"a" * 998))) is None


@pytest.mark.parametrize("protocol", range(6))
def test_what_occurs_is_not(protocol):
    content = {
        "model": OrderedDict((f"layer{n}", [n, (1, (2, 3)), {"a": None}]) for n in range(1000)),
        (1, "a"): {(n, (n, n)) for n in range(1000)},
        "state": tuple(range(10_000)),
        "same": [frozenset("ab")] * 3,
    }
    file = io.BytesIO(pickle.dumps(content, protocol) + pickle.dumps("the next", protocol))
    assert excess(file) is None
    assert pickle.load(file) == "the next"


@pytest.mark.parametrize(
    "content", [b"", b"no pickle", b"\x80\x02h\x05.", b"0000", b"u.", b"t.", b"q\x00.", b"2."]
)
def test_what_is_no_sound_pickle_is_left_to_its_reader(content):
    assert excess(io.BytesIO(content)) is None


def test_of_every_format_of_checkpoints(tmp_path):
    path, hostile = tmp_path / "w.pth", HOSTILE["a key"]
    torch.save({"model": {}}, path)
    with zipfile.ZipFile(path) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members:
            archive.writestr(name, hostile if name.endswith("data.pkl") else content)
    torch.save({"model": {}}, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    file = io.BytesIO((tmp_path / "legacy.pth").read_bytes())
    for _ in range(3):
        pickle.load(file)  # what stands before the content
    (tmp_path / "legacy.pth").write_bytes(file.getvalue()[: file.tell()] + hostile)
    (tmp_path / "bare.pth").write_bytes(hostile)
    for name in ("w.pth", "legacy.pth", "bare.pth"):
        with pytest.raises(UserError, match=f"{name} .*is refused: it has keys of tuples within"):
            read_checkpoint(tmp_path / name)
