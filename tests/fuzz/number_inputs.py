"""Text files of numbers, line by line: numbers and lines changed, then bytes."""

from random import Random

from tests.fuzz.byte_inputs import mutate_bytes

ODD_NUMBERS = [
    *("nan", "-nan", "inf", "-Infinity", "1e999", "1e308", "-1e308", "1e200", "5e-324", "-0", "0"),
    *("0x10", "1_000", "1,5", "1e", "--1", "+1", ".", "", "1" * 400, "9" * 5000, "1j", "None", "#"),
    *("1", "-1", "106", "107", "1e5", "1.", "0.999", "1.0005", "\x00", "1\x1c2", "1\x0b2", "1\r2"),
]


def mutate_numbers(data: bytes, random: Random) -> bytes:
    """A change of a text file of numbers."""
    if random.random() < 0.1:
        return mutate_bytes(data, random)
    lines = data.decode("latin1").split("\n")
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        change_lines(lines, random)
    changed = "\n".join(lines).encode("latin1")
    return mutate_bytes(changed, random) if random.random() < 0.1 else changed


def change_lines(lines: list[str], random: Random) -> None:
    """Change one line, or leave it out, repeat it, or put it elsewhere."""
    number, action = random.randrange(len(lines)), random.randrange(10)
    words = lines[number].split(" ")
    word = random.randrange(len(words))
    if action == 0 and len(lines) > 1:
        del lines[number]
    elif action == 1:
        lines.insert(random.randrange(len(lines) + 1), lines[number])
    elif action == 2:
        other = random.randrange(len(lines))
        lines[number], lines[other] = lines[other], lines[number]
    elif action == 3:
        words.insert(word, random.choice(ODD_NUMBERS))
        lines[number] = " ".join(words)
    elif action == 4:
        del words[word]
        lines[number] = " ".join(words)
    elif action == 5:
        lines[number] += random.choice(
            [" ", "\t", "\r", "\x0c", " 1", "\n", "\n0 5", " " * 100_000]
        )
    else:
        words[word] = random.choice([*ODD_NUMBERS, str(random.uniform(-1, 1))])
        lines[number] = " ".join(words)
