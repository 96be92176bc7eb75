"""Changes of files as bytes: what a bad disk, a broken download or an editor does."""

from random import Random

# Numbers where readers tend to break, little-endian; text that means something to one of them.
EDGES = [
    *((value % 2**32).to_bytes(4, "little") for value in (0, 1, -1, 2**16, 2**31 - 1, 2**31)),
    *((value % 2**64).to_bytes(8, "little") for value in (0, -1, 2**32, 2**40, 2**63 - 1)),
    *(b"\0", b"\n", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"../", b"\x1c", b"\x85", b"{}", b"[["),
]


def mutate_bytes(data: bytes, random: Random) -> bytes:
    """A few random changes."""
    found = bytearray(data)
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        random.choice(CHANGES)(found, random)
    return bytes(found)


def place(data: bytearray, random: Random) -> int:
    """A position, often near one of the ends, where formats have their headers."""
    return min(random.choice([random.randrange(len(data) + 1), random.randrange(64)]), len(data))


def flip(data: bytearray, random: Random) -> None:
    """Another value of one byte."""
    if data:
        data[min(place(data, random), len(data) - 1)] ^= 1 << random.randrange(8)


def overwrite(data: bytearray, random: Random) -> None:
    """Numbers and text out of ``EDGES`` in place of what is there."""
    start, edge = place(data, random), random.choice(EDGES)
    data[start : start + len(edge)] = edge


def insert(data: bytearray, random: Random) -> None:
    """The same between what is there."""
    start = place(data, random)
    data[start:start] = random.choice(EDGES)


def remove(data: bytearray, random: Random) -> None:
    """Without a few bytes."""
    start = place(data, random)
    del data[start : start + random.choice([1, 2, 4, 8, 64])]


def cut(data: bytearray, random: Random) -> None:
    """Nothing from some place on: a broken download."""
    del data[place(data, random) :]


def repeat(data: bytearray, random: Random) -> None:
    """A stretch once more, sometimes many times."""
    start = place(data, random)
    stretch = data[start : start + random.choice([1, 4, 16, 64])]
    data[start:start] = stretch * random.choice([1, 1, 1, 2, 1000])


CHANGES = [flip, flip, flip, overwrite, insert, remove, cut, repeat]
