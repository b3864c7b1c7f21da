"""What can go wrong, as the user sees it.

EvaluateError
 ├─ BadInput              a file, an argument or a folder of answers that cannot be used
 ├─ EndpointUnavailable   nobody answers at the URL, or it answers no API call
 └─ ModelNotServed        the server answers but does not serve the model asked for

Every message is one line that names the file (and line) or the URL, what is wrong and what to do.
"""

import difflib
from collections.abc import Iterable


class EvaluateError(Exception):
    """The root: catch this to catch everything that `evaluate` raises on purpose."""


class BadInput(EvaluateError):  # noqa: N818
    """A file, an argument or a folder of answers that cannot be used."""


class EndpointUnavailable(EvaluateError):  # noqa: N818
    """Nobody answers at the endpoint's URL."""


class ModelNotServed(EvaluateError):  # noqa: N818
    """The endpoint does not serve the model asked for."""


def nearest(name: str, names: Iterable[str]) -> str:
    """Returns ", nearest is 'x'" for the closest of `names`, or "" when none is close."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f", nearest is {close[0]!r}" if close else ""
