"""Exit codes of the commands of ``tools/``, and errors as one line on stderr."""

import os
import signal
import sys
from collections.abc import Callable

from dropkey_core.engine.errors import UserError
from dropkey_core.engine.signals import TrainingStopped


def exit_code(
    command: Callable[[], None], interrupted: str = "interrupted; what was not saved before is lost"
) -> int:
    """Run a command and return its exit code; ``interrupted`` is said after Ctrl-C.

    It is 0, 2 for a user's error, which is printed as one line on stderr, 130 after Ctrl-C, 141
    where nobody reads what is printed any more (``| head``), or what a stopped run asks for.
    """
    try:
        command()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is left to print
        return 141  # 128 + SIGPIPE, which Windows has no name for
    except UserError as error:
        print(f"error: {error.one_line()}", file=sys.stderr)
        return 2
    except TrainingStopped as stopped:
        # What ends a job may say so more than once: all is saved, and this is the way out.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return stopped.exit_code
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
    return 0
