"""A Python without what POSIX alone has, as on Windows: what imports there, and a training.

    no_posix.py imports PACKAGE [PACKAGE ...]
    no_posix.py train CONFIG [key=value ...]

In a training other libraries, which ask for the platform, have all, and loaders' processes are
spawned: they run this file again, up to its last lines.
"""

import importlib
import multiprocessing
import os
import pkgutil
import signal
import sys
from pathlib import Path
from types import ModuleType

MODULES = {"resource", "fcntl", "pwd", "grp", "termios", "pty", "syslog"}
SIGNALS = "SIGCHLD SIGKILL SIGPIPE SIGHUP SIGXCPU SIGALRM SIGUSR1 SIGUSR2 SIGPROF"
NAMES = {
    signal: f"pthread_sigmask pthread_kill setitimer sigwait sigtimedwait {SIGNALS}".split(),
    os: ["fork", "forkpty", "killpg", "setsid", "getpgid", "getuid", "mkfifo", "nice"],
}


class Absent:
    """Finds none of ``MODULES``."""

    def find_spec(self, name, path=None, target=None):
        if name in MODULES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def take_away_from_all():
    for owner, names in NAMES.items():
        for name in names:
            delattr(owner, name)
    for name in MODULES & sys.modules.keys():
        del sys.modules[name]
    sys.meta_path.insert(0, Absent())


def take_away_from_ours():
    import dropkey_core.engine  # noqa: F401

    ours = [module for name, module in sys.modules.items() if name.startswith("dropkey_core")]
    for owner, names in NAMES.items():
        left = ModuleType(owner.__name__)
        left.__dict__.update({name: v for name, v in vars(owner).items() if name not in names})
        for module in ours:
            if vars(module).get(owner.__name__) is owner:
                setattr(module, owner.__name__, left)


def import_all(*packages):
    for package in map(importlib.import_module, packages):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if not module.name.endswith("detectron2"):  # needs it
                print(importlib.import_module(module.name).__name__)


def train(config, *overrides):
    multiprocessing.set_start_method("spawn")
    from dropkey_core.engine import load_config, train

    train(load_config(config, overrides))


sys.path.insert(0, str(Path(__file__).parents[1]))
mode, *arguments = sys.argv[1:]
{"imports": take_away_from_all, "train": take_away_from_ours}[mode]()
if __name__ == "__main__":
    {"imports": import_all, "train": train}[mode](*arguments)
