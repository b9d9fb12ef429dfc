"""Tables in Markdown."""

from collections.abc import Iterable, Sequence


def markdown(
    titles: Sequence[str], rows: Iterable[Sequence[str]], text_columns: int = 1
) -> list[str]:
    """The lines of a table; all columns but the first ``text_columns`` are aligned to the right.

    Example:
      >>> markdown(["model", "top-1"], [["cpv", "98.61"]])
      ['| model | top-1 |', '| --- | ---: |', '| cpv | 98.61 |']
    """
    rules = ["---" if column < text_columns else "---:" for column in range(len(titles))]
    return [f"| {' | '.join(cells)} |" for cells in (titles, rules, *rows)]
