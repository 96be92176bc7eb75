"""The error that is the user's to mend."""


class UserError(Exception):
    """Bad input, told in one line: what, where, what is allowed, what to do.

    Tools print it as ``error: ...`` without a traceback and exit with code 2.
    """
