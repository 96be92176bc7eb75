"""Pickles, opcode by opcode: what they name, call, build and refer to."""

import pickletools
from contextlib import suppress
from pathlib import Path
from random import Random

from tests.fuzz.byte_inputs import mutate_bytes

TOUCHED = Path("/tmp/fuzz_was_here")  # what pickles with code would make
# Each leaves one object on the stack, or means to.
HOSTILE = [
    f"cposix\nsystem\n(S'touch {TOUCHED}'\ntR".encode(),
    f"(S'touch {TOUCHED}'\nios\nsystem\n".encode(),
    f"(cos\nsystem\nS'touch {TOUCHED}'\no".encode(),
    f'c__builtin__\neval\n(S\'open("{TOUCHED}", "w")\'\ntR'.encode(),
    f"cbuiltins\nopen\n(S'{TOUCHED}'\nS'w'\ntR".encode(),
    f"cbuiltins\ngetattr\n(cos\nsystem\nS'touch {TOUCHED}'\ntR".encode(),
    "\x8c\x02os\x8c\x06system\x93\x8c\x07touch /\x85R".encode("latin1"),
    b"cnumpy\nload\n(S'/etc/passwd'\ntR",
    b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I99\ntS'b'\ntR",
    b"cchumpy.ch\nCh\n)\x81}S'x'\nI1\nsb",
    b"c_codecs\nencode\n(X\x02\x00\x00\x00abX\x06\x00\x00\x00latin1tR",
    b"Pnumpy\n",
    b"S'a'\nQ",
    b"\x82\x01",
    b"\x96\xff\xff\xff\x7f\x00\x00\x00\x00abc",  # a bytearray of 2 GB is to follow
    b"\x8e\xff\xff\xff\xff\xff\x00\x00\x00abc",
    b"\x8b\xff\xff\xff\x7f",
    b"I" + b"9" * 5000 + b"\n",
    b"L" + b"9" * 5000 + b"L\n",
    b"F1e999\n",
    b"(" * 1000 + b"t" * 1000,
    b"]" + b"\x94(h\x00h\x00h\x00h\x00h\x00e" * 3,
    b"N" + b"2\x86" * 40,  # pairs of pairs of pairs: a terabyte, were it written out or hashed
    b"N" + b"2\x86" * 40 + b"Q",
    b"}N" + b"2\x86" * 40 + b"Ns",
    b"\x8f(N" + b"2\x86" * 40 + b"\x90",
    b"(N" + b"2\x86" * 40 + b"\x91",
    b"c_codecs\nencode\n(X\x01\x00\x00\x00aN" + b"2\x86" * 40 + b"tR",
    b"}N" + b"q\xf0h\xf0\x86" * 40 + b"Ns",
    b"]\x94h\x00a",  # a list in itself
    *(b"N", b"\x88", b"]", b"}", b")", b"K\x05", b"J\xff\xff\xff\x7f", b"S'x'\n", b"X\0\0\0\0"),
    *(b"(lp0\n", b"\x8f", b"(K\x01K\x02t", b"(N", b"C\x02ab", b"G\x7f\xf0\0\0\0\0\0\0", b"(d"),
]


def mutate_pickle(data: bytes, random: Random) -> bytes:
    """A change of a pickle, mostly of its opcodes."""
    parts = opcodes(data)
    if not parts or random.random() < 0.1:
        return mutate_bytes(data, random)
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        change_opcodes(parts, random)
    changed = b"".join(parts)
    return mutate_bytes(changed, random) if random.random() < 0.1 else changed


def opcodes(data: bytes) -> list[bytes]:
    """The opcodes of a pickle, each with its argument; what comes after the last readable one."""
    starts = []
    with suppress(Exception):  # as far as it can be read
        starts.extend(position for _, _, position in pickletools.genops(data))
    return [data[a:b] for a, b in zip([*starts], [*starts[1:], len(data)], strict=True)]


def change_opcodes(parts: list[bytes], random: Random) -> None:
    """Leave out, repeat, move or exchange one opcode, change its argument, or put code in."""
    number, action = random.randrange(len(parts)), random.randrange(8)
    other = random.randrange(len(parts))
    if action == 0 and len(parts) > 1:
        del parts[number]
    elif action == 1:
        parts.insert(other, parts[number])
    elif action == 2:
        parts[number] = parts[other]
    elif action == 3:
        parts[number], parts[other] = parts[other], parts[number]
    elif action == 4:
        parts[number] = parts[number][:1] + mutate_bytes(parts[number][1:], random)
    elif action == 5:
        parts[number] = random.choice(HOSTILE)
    else:
        parts.insert(number, random.choice(HOSTILE))
