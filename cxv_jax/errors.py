"""The one exception that means "the input is at fault, not the program", and what it may say."""

import difflib
from collections.abc import Iterable, Mapping


class InputError(ValueError):
    """Bad input from a person: a field, a file, a size.

    The message is one line that says what is wrong, what was expected and what to do. It names
    arguments as Python has them (``fork=True``); commands translate them to flags, print the line
    and exit with code 2; libraries may catch it as a ``ValueError``.
    """


def os_fault(error: OSError) -> InputError:
    """What the operating system refuses, in one line: the file, then why.

    Example:
      >>> str(os_fault(FileNotFoundError(2, "No such file or directory", "/x")))
      '/x: No such file or directory'
    """
    files = [str(name) for name in (error.filename, error.filename2) if name is not None]
    reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
    return InputError(": ".join([*files, reason]))


def nearest(word: str, choices: Iterable[str], meanings: Mapping[str, str] | None = None) -> str:
    """The end of a message about an unknown ``word``: the nearest choice, or all of them.

    Args:
      word: what a person typed.
      choices: what there is.
      meanings: other words for some of the choices, in lower case.

    Example:
      >>> nearest("adam", ["adamw", "sgd"]), nearest("x", ["adamw", "sgd"])
      ("; did you mean 'adamw'?", '; choose from adamw, sgd')
    """
    choices = list(choices)
    typed = (meanings or {}).get(word.lower(), word.lower())
    lower = {choice.lower(): choice for choice in reversed(choices)}
    close = difflib.get_close_matches(typed, lower, 1, cutoff=0.5)
    found = f"; did you mean {lower[close[0]]!r}?" if close else ""
    return found or f"; choose from {', '.join(choices)}"


def reason(error: Exception) -> str:
    """What went wrong in somebody else's code, in one line: its kind and its first sentence."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
