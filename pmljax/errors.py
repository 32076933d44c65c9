"""The one error that a user can cause. Every message names the file or argument, what was found, what was expected."""


class InputError(ValueError):
    """Bad input: a file, a folder or an argument. The command line prints it as one line and exits with status 2."""
