"""Inputs that a reader once failed at: (target, content)."""

FINDINGS: list[tuple[str, bytes]] = []
