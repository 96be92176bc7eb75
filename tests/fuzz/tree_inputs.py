"""JSON and YAML documents: values exchanged, left out, repeated and moved; then bytes changed."""

import copy
import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import yaml

from tests.fuzz.byte_inputs import mutate_bytes

DIGITS, DEEP = "@digits@", "@deep@"  # what no document can hold; put in place when it is written
ODD_VALUES: list[Any] = [
    *(None, True, False, 0, 1, 2, -1, 1.0, 0.5, -0.0, 2**31, 2**63, -(2**63), 2**64, 10**400),
    *(1e308, -1e308, 5e-324, float("nan"), float("inf"), float("-inf"), DIGITS, DEEP),
    *("", "person", "1", "a.jpg", "../a.jpg", "/etc/passwd", "a\0b", "a\nb", "\ud800", "é", "."),
    *("a" * 300, "x" * 2000, [], {}, [[]], [1, 2], [0] * 40, [1, 2, 3, 4], {"id": 1}, {"a": [{}]}),
]
# What means more than itself to YAML or OmegaConf.
ODD_YAML: list[Any] = [
    *("???", "${train.seed}", "${model}", "${.width}", "${nowhere}", "${", "${a}${a}", "${a:b}"),
    *("${oc.env:HOME}", "${oc.decode:'[1]'}", "${oc.create:{a: 1}}", "${oc.select:train}", "1e-3"),
    *("os.system", "subprocess.Popen", "builtins.eval", "builtins.exec", "torch.nn", "a..b", "..."),
    *(
        "torch.nn.Linear",
        "torch.optim.AdamW",
        "toy_experiment.ToyModel",
        "sys.exit",
        "toy.yaml",
        12,
    ),
]
YAML_TEXT = [
    "!!python/object/apply:os.system ['touch x']",
    "!!python/name:os.system",
    "!!binary aGVsbG8=",
    "!!timestamp 2001-12-14",
    "!!set {a, b}",
    "!!omap [a: 1]",
    "!!int 'x'",
    "!!float 'x'",
    "!unknown {a: 1}",
    "&a [*a, *a]",
    "*nowhere",
    "<<: {a: 1}",
    "<<: 3",
    "? [a, b]\n: 1",
    "2001-99-99",
    "0b101_0:12:99",
    "|\n  text",
    "%YAML 9.9",
    "---\n",
    "\t",
    "[" * 400,
    "{a: " * 30,
    "- " * 400,
    "9" * 5000,
    "&a [1]\n"
    + "".join(f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True)),
]


def mutate_json(data: bytes, random: Random) -> bytes:
    """A change of a JSON file, mostly of its document and sometimes of its bytes."""
    return mutate_document(data, random, json.loads, json_bytes, ODD_VALUES)


def json_bytes(document: Any) -> bytes:
    """A document as JSON, with numbers of 5,000 digits and lists 100,000 deep where it says so."""
    text = json.dumps(document).replace(f'"{DIGITS}"', "9" * 5000)
    return text.replace(f'"{DEEP}"', "[" * 100_000).encode()


def mutate_yaml(data: bytes, random: Random) -> bytes:
    """A change of a YAML file; lines ``#override key=value`` in it are for ``load_config``."""
    lines = data.decode(errors="replace").splitlines()
    overrides = [line for line in lines if line.startswith("#override ")]
    if random.random() < 0.5:
        overrides = [*overrides[: random.randrange(3)], override(lines, random)]
    changed = data
    if random.random() < 0.7:
        changed = mutate_document(data, random, parse_yaml, yaml_bytes, ODD_VALUES + ODD_YAML)
    body = [line for line in changed.splitlines() if not line.startswith(b"#override ")]
    if body and random.random() < 0.25:
        number = random.randrange(len(body))
        text = random.choice(YAML_TEXT).encode()
        key = body[number].partition(b":")[0]
        body[number] = random.choice([text, key + b": " + text, body[number] + b"\n" + text])
    return b"\n".join([*body, *(line.encode(errors="replace") for line in overrides)]) + b"\n"


def override(lines: list[str], random: Random) -> str:
    """A line that overrides some key of the file by some value, both sometimes odd."""
    keys = [line.partition(":")[0].strip(" -") for line in lines if ":" in line] or ["a"]
    key = ".".join(random.choice(keys) for _ in range(random.randrange(1, 4)))
    key = random.choice([key, f"train.{random.choice(keys)}", "model.width", "optimizer.lr"])
    value = str(random.choice(ODD_VALUES + ODD_YAML)).encode(errors="replace").decode()
    text = random.choice([f"{key}={value}", key, f"{key}.0={value}", f"{key}=[{value}", "=1"])
    return "#override " + text.replace("\n", " ")


def parse_yaml(data: bytes) -> Any:
    """A document without aliases that lead into themselves or take long."""
    return yaml.safe_load(data) if len(data) < 20_000 and b"*" not in data else None


def yaml_bytes(document: Any) -> bytes:
    """A document as YAML."""
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True).encode(errors="replace")


def mutate_document(
    data: bytes,
    random: Random,
    parse: Callable[[bytes], Any],
    write: Callable[[Any], bytes],
    odd_values: list[Any],
) -> bytes:
    """A change of the document that a file holds, if it holds one, and sometimes of its bytes."""
    if random.random() < 0.15:
        return mutate_bytes(data, random)
    try:
        document = parse(data)
    except (ValueError, RecursionError, yaml.YAMLError):
        return mutate_bytes(data, random)
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        document = mutate_tree(document, random, odd_values)
    changed = write(document)
    return mutate_bytes(changed, random) if random.random() < 0.1 else changed


def mutate_tree(document: Any, random: Random, odd_values: list[Any]) -> Any:
    """A document with one part changed."""
    root = [document]
    parts = list(containers(root))
    parent = random.choice(parts)
    if not parent:
        return document
    key = random.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
    other = random.choice(parts)
    action = random.randrange(6)
    if action == 0 and parent is not root:
        del parent[key]
    elif action == 1 and isinstance(parent, list) and parent is not root:
        parent.insert(random.randrange(len(parent) + 1), copy.deepcopy(parent[key]))
    elif action == 2 and isinstance(parent, dict):
        parent[random.choice([*parent, "id", "bbox", "_target_", "name", ""])] = parent.pop(key)
    elif action == 3 and other:
        found = random.choice(list(other.values()) if isinstance(other, dict) else other)
        parent[key] = copy.deepcopy(found)
    elif action == 4 and isinstance(parent[key], int | float) and abs(parent[key]) < 1e300:
        parent[key] += random.choice([-1, 1, 0.5, 1000])
    else:
        parent[key] = copy.deepcopy(random.choice(odd_values))
    return root[0]


def containers(value: Any) -> Iterator[Any]:
    """All lists and mappings within a value."""
    if isinstance(value, list | dict):
        yield value
        for child in value.values() if isinstance(value, dict) else value:
            yield from containers(child)
