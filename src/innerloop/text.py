"""Parts of sentences that every message is made of."""

import difflib
from collections.abc import Iterable, Sequence


def listed(items: Sequence[str], most: int = 5) -> str:
    """The first few of many, and how many more.

    Example:
        >>> listed(["a", "b", "c"], 2)
        'a, b and 1 more'
    """
    shown = ", ".join(items[:most])
    return shown if len(items) <= most else f"{shown} and {len(items) - most} more"


def nearest(name: str, names: Iterable[str]) -> str:
    """What to say of a name that is not among `names`: the nearest one, or all of them.

    Example:
        >>> nearest("mmal", ["maml", "anil"]), nearest("x", ["maml", "anil"])
        ("did you mean 'maml'?", 'choose one of: maml, anil.')
    """
    candidates = list(names)
    close = difflib.get_close_matches(name, candidates, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"choose one of: {', '.join(candidates)}."
