"""The exceptions that are meant for people."""


class UserError(Exception):
    """Something the user can mend: the message is one line that names the key and what to do.

    The command line prints it without a traceback and ends with exit status 2.
    """


class PointFailed(UserError):  # noqa: N818 - it says what happened
    """One point came to nothing; the others of the run go on.

    What happened is kept in the point's folder, and the run ends with exit status 1.
    """


def refusal(error: OSError) -> str:
    """What the system refuses, as a line: the file if it is known, and why."""
    named = "" if error.filename is None else f"{error.filename}: "
    return f"{named}{error.strerror}."
