"""What a run was made with, kept in its checkpoints."""

import importlib.metadata
import platform
import sys

# What decides how a run goes; of the others none is imported by every project.
PACKAGES = ("torch", "torchvision", "lightning", "numpy", "scipy", "timm", "smplx", "detectron2")


def versions() -> dict[str, str]:
    """Return the versions of Python, this library and the packages that are loaded."""
    loaded = {name: sys.modules[name] for name in PACKAGES if name in sys.modules}
    told = {name: getattr(module, "__version__", None) for name, module in loaded.items()}
    return {
        "python": platform.python_version(),
        "dropkey": _own_version(),
        **{name: str(version) for name, version in told.items() if version},
    }


def _own_version() -> str:
    try:
        return importlib.metadata.version("dropkey")
    except importlib.metadata.PackageNotFoundError:
        return "a checkout"
