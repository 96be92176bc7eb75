"""QPIC with DropKey on HICO-DET."""

from projects.qpic.build import build_model

__all__ = ["build_model"]
