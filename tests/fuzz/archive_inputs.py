"""Zip archives of arrays and checkpoints, member by member, and what lies in them."""

import io
import zipfile
import zlib
from random import Random

from tests.fuzz.byte_inputs import mutate_bytes
from tests.fuzz.pickle_inputs import mutate_pickle

NPY = b"\x93NUMPY"
# Exchanged in the header of a .npy.
HEADER_WORDS = [
    *(b"'descr'", b"'fortran_order'", b"'shape'", b"True", b"False", b"None", b"(", b")", b"}"),
    *(b"'<f8'", b"'>i4'", b"'<U3'", b"'|O'", b"'|V8'", b"'<M8[s]'", b"'|S0'", b"'|b1'", b"'f'"),
    *(b"(3,)", b"()", b"(-1,)", b"(2**40,)", b"(99999999999,)", b"(3, 2)", b"(1.5,)", b"[3]", b"'"),
    *(b"[('a', '<f8')]", b"{[1]: 2}", b"(" * 90, b"9" * 5000, b"\\N{x}", b"b'x'", b"3L", b"\n\t 1"),
]


def mutate_archive(data: bytes, random: Random) -> bytes:
    """A change of a zip archive's members, of a .npy, of a pickle, or of its bytes."""
    if data.startswith(NPY):
        return mutate_npy(data, random)
    if not data.startswith(b"PK"):
        return mutate_pickle(data, random)
    if random.random() < 0.2:
        return mutate_bytes(data, random)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(m.filename, archive.read(m)) for m in archive.infolist()]
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError, RuntimeError) as _:
        return mutate_bytes(data, random)
    if not members:
        return mutate_bytes(data, random)
    change_members(members, random)
    method = random.choice([zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return file.getvalue()


def change_members(members: list[tuple[str, bytes]], random: Random) -> None:
    """Leave out, repeat or rename a member, exchange two contents, or mostly change one."""
    number, action = random.randrange(len(members)), random.randrange(12)
    name, content = members[number]
    other = random.randrange(len(members))
    if action == 0:
        del members[number]
    elif action == 1:
        members.append(members[number])
    elif action == 2:
        members[number] = (random.choice(["../x", "", "a" * 300, name + "x", name[1:]]), content)
    elif action == 3:
        members[number] = (name, members[other][1])
    elif action == 4:
        members[number] = (name, bytes(random.choice([0, 1, 10**6])))
    else:
        members[number] = (name, change_content(name, content, random))


def change_content(name: str, content: bytes, random: Random) -> bytes:
    """A change of what a member holds."""
    if name.endswith(".npy"):
        return mutate_npy(content, random)
    return (
        mutate_pickle(content, random) if name.endswith(".pkl") else mutate_bytes(content, random)
    )


def mutate_npy(data: bytes, random: Random) -> bytes:
    """A change of a .npy: of words of its header, of the pickle in it, or of its bytes."""
    start = int.from_bytes(data[8:10], "little") + 10
    header, body = data[10:start], data[start:]
    if not header or random.random() < 0.15:
        return mutate_bytes(data, random)
    if b"'|O'" in header and random.random() < 0.8:
        return data[:start] + mutate_pickle(body, random)
    if random.random() < 0.2:
        return data[:start] + mutate_bytes(body, random)
    words = header.replace(b",", b" ,").split(b" ")
    words[random.randrange(len(words))] = random.choice(HEADER_WORDS)
    header = b" ".join(words)
    version = random.choice([b"\1\0"] * 8 + [b"\2\0", b"\3\0", b"\x09\0"])
    length = len(header).to_bytes(2 if version == b"\1\0" else 4, "little")
    return NPY + version + length + header + body
