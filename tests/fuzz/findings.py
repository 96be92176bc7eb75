"""Inputs that a reader once failed at: (target, content)."""

TABLE = "title: a\nsource: b\nmetrics: [{name: a, label: b, digits: 3}]\n"
SEEDS = "seeds: {full: [0]}\n"
ROWS = "rows: [{id: a, label: a, left_out: b}]\n"

# An archive of 108 bytes whose member claims to have 99.
START = b"PK\3\4" + bytes(22) + b"\5\0\0\0a.pkl"
ENTRY = b"PK\1\2\x14\3\x14" + bytes(13) + b"\x63\0\0\0" * 2 + b"\5" + bytes(17) + b"a.pkl"
END = b"PK\5\6" + bytes(4) + b"\1\0\1\0\x33\0\0\0\x23" + bytes(5)

FINDINGS: list[tuple[str, bytes]] = [
    ("config", b"model: []\n#override model.width=4\n"),
    ("config", b"'1'"),
    ("table", (TABLE + SEEDS + "rows: [{id: a, label: a, same_as: /etc/p}]\n").encode()),
    ("table", (TABLE + ROWS + "seeds: ${oc.env:HOME}\n").encode()),
    ("table", (TABLE + SEEDS + ROWS + "setups: ${oc.env:HOME}\n").encode()),
    ("checkpoint", b"\x8b\xff\xff\xff\x7f"),  # a number of two gigabytes is to follow
    ("checkpoint", b"\x80\x02ctorch\n%s\n." % (b"_rebuild" * 10_000)),
    ("checkpoint", START + ENTRY + END),
]
