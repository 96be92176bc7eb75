"""The error that is the user's to mend."""


class UserError(Exception):
    """Bad input, told in one line: what, where, what is allowed, what to do.

    Tools print it as ``error: ...`` without a traceback and exit with code 2.
    """

    def one_line(self) -> str:
        """Return the message alone: a loader process sends it at the end of its traceback."""
        message = str(self).strip()
        _, found, original = message.rpartition(f"{type(self).__name__}: ")
        return " ".join((original if found else message).split())
