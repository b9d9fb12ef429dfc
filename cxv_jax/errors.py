"""The one exception that means "the input is at fault, not the program"."""


class InputError(ValueError):
    """Bad input from a person: a field, a file, a size.

    The message is one line that says what is wrong, what was expected and what to do.
    Commands print it and exit with code 2; libraries may catch it as a ``ValueError``.
    """
