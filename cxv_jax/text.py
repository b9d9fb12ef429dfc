"""Text for a person: names of files and classes made safe to print, shares, durations."""


def printable(text: str, keep: str = "") -> str:
    """What a terminal shows as it is; the rest is escaped as Python does.

    Control characters and escape sequences could steer the terminal, characters that turn the
    direction of writing hide what a name is, and surrogates (bytes of a name that is no UTF-8)
    cannot be written at all.

    Args:
      text: any text.
      keep: characters to leave alone, say line breaks.

    Example:
      >>> printable("caf\\xe9\\x1b[2J\\udce9\\n"), printable("a\\nb", keep="\\n")
      ('café\\\\x1b[2J\\\\udce9\\\\n', 'a\\nb')
    """
    return "".join(c if c.isprintable() or c in keep else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def percent(fraction: float | None) -> str:
    """``98.77 %``; nothing for None."""
    return "" if fraction is None else f"{100 * fraction:.2f} %"


def duration(seconds: float) -> str:
    """Seconds as a person reads them."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
