"""The one exception that means "the input is at fault": its text is all a user needs to see."""


class UserError(Exception):
    """Bad input. The message names the file, line or key at fault and the remedy; tools print it without a
    traceback."""
