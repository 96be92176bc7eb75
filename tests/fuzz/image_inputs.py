"""Image files: a PNG's chunks with right checksums, other formats byte by byte."""

import zlib
from random import Random

from tests.fuzz.byte_inputs import mutate_bytes

PNG = b"\x89PNG\r\n\x1a\n"
CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf", b"zTXt", b"iTXt", b"iCCP", b"acTL")


def mutate_image(data: bytes, random: Random) -> bytes:
    """A change of an image file."""
    chunks = png_chunks(data)
    if not chunks or random.random() < 0.2:
        return mutate_bytes(data, random)
    number = random.randrange(len(chunks))
    kind, content = chunks[number]
    action = random.randrange(8)
    if action == 0:
        del chunks[number]
    elif action == 1:
        chunks.insert(random.randrange(len(chunks)), chunks[number])
    elif action == 2:
        chunks[number] = (random.choice(CHUNKS), content)
    elif action == 3:
        chunks.insert(number, (random.choice(CHUNKS), mutate_bytes(content, random)))
    elif action == 4 and kind == b"IHDR":
        side = random.choice([0, 1, 13, 300, 11_000, 2**31 - 1, 2**32 - 1]).to_bytes(4, "big")
        chunks[number] = (kind, random.choice([side + content[4:], side * 2 + content[8:]]))
    else:
        chunks[number] = (kind, mutate_bytes(content, random))
    return PNG + b"".join(png_chunk(*chunk) for chunk in chunks)


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Kind and content of a PNG's chunks; [] for other files."""
    found, start = [], len(PNG)
    while data.startswith(PNG) and len(data) >= start + 12:
        length = int.from_bytes(data[start : start + 4], "big")
        found.append((data[start + 4 : start + 8], data[start + 8 : start + 8 + length]))
        start += length + 12
    return found


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk as it stands in a file."""
    checksum = zlib.crc32(kind + content)
    return len(content).to_bytes(4, "big") + kind + content + checksum.to_bytes(4, "big")
