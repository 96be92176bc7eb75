"""Inputs that a reader once failed at: (target, content)."""

FINDINGS: list[tuple[str, bytes]] = [
    ("config", b"model: []\n#override model.width=4\n"),
    ("checkpoint", b"\x8b\xff\xff\xff\x7f"),  # a number of two gigabytes is to follow
]
