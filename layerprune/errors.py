"""The one exception that is meant for people."""


class UserError(Exception):
    """Something the user can mend: the message is one line that names the key and what to do.

    The command line prints it without a traceback and ends with exit status 2.
    """
