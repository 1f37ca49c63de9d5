"""The exception for errors in the user's input."""


class UserError(Exception):
    """Invalid input. The message names the file, line or key and the remedy; commands print it without a traceback."""
