"""Published weights: registry entry (URL, hash, licence, metric), download and check."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dropkey_core.engine.checkpoint import find_checkpoint, weights_by_name
from dropkey_core.engine.errors import UserError
from dropkey_core.engine.files.checkpoints import read_content
from dropkey_core.engine.files.outside import sha256_of


@dataclass(frozen=True, kw_only=True)
class PublishedWeights:
    """A file of weights that somebody has published, and the model that they belong to.

    Attributes:
        url: of the file; empty where its publishers name none, then ``notes`` say where to look.
        config: YAML of the model, relative to the root of the checkout.
        overrides: what this model needs besides, ``key=value`` each.
        licence: of the weights, as far as their publishers say it.
        metric: what their publishers measured, and on what.
        source: the page or paper that says so.
        sha256: of the file, or how it begins; empty where none is published.
        notes: what else one must know to use them.
        convert: from the content of the file to a ``state_dict`` of our model; None where the file
            holds one under our names already.
    """

    url: str
    config: str
    licence: str
    metric: str
    source: str
    overrides: tuple[str, ...] = ()
    sha256: str = ""
    notes: str = ""
    convert: Callable[[Mapping[str, Any]], Mapping[str, Tensor]] | None = None

    def fetch(self) -> Path:
        """Return the file, fetched once into torch's hub folder and kept.

        Raises:
            UserError: no address is known, the network is out of reach (then where to put the file
                by hand is told), or the file is not the published one.
        """
        if not self.url:
            raise UserError(f"these weights have no address to fetch them from: {self.notes}")
        try:
            file = find_checkpoint(self.url, self.source, self.sha256)
        except UserError as error:
            raise UserError(f"{error}; {self.notes}" if self.notes else str(error)) from None
        found = sha256_of(file) if self.sha256 else ""
        if not found.startswith(self.sha256):
            raise UserError(
                f"{file} is not the file of {self.url}: its SHA-256 begins "
                f"{found[: len(self.sha256)]}, not {self.sha256}; delete it to fetch it anew"
            )
        return file

    def read(self, file: Path) -> dict[str, Any]:
        """Return the content of the fetched file, with our model's ``state_dict`` under ``model``.

        Raises:
            UserError: see ``find_weights``; or it cannot be converted.
        """
        content = read_content(file, f"the checkpoint {file} (from {self.url})")
        if self.convert is None:
            return {**content, "model": weights_by_name(content.get("model", content), file)}
        return {"model": dict(self.convert(content))}
