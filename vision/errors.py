"""Errors a user can mend. The commands print their message without a traceback; everything else is a bug."""

import difflib
from collections.abc import Iterable

MOST_LISTED = 30  # of a longer table, only the names like the given one are listed


class UsageError(ValueError):
    """The configuration, a flag, a file or the data is not usable as given.

    The message is one or two sentences: what was given, what was expected, where, and what to do.
    """


def nearest(given: str, valid: Iterable[str]) -> str | None:
    """The valid name closest to the given one, or None when nothing is close."""
    matches = difflib.get_close_matches(str(given), [str(name) for name in valid], n=1, cutoff=0.5)
    return matches[0] if matches else None


def unknown_name(kind: str, given: object, valid: Iterable[str], where: str = "") -> UsageError:
    """The error for a name that is not in a table: says where, offers the nearest name and lists the valid ones.

    >>> raise unknown_name("model", "resnet51", MODELS, "config.model.name")
    UsageError: config.model.name: unknown model 'resnet51'; did you mean 'resnet50'? Valid: lenet, resnet18, ...
    """
    names = sorted(str(name) for name in valid)
    close = nearest(str(given), names)
    hint = f"; did you mean {close!r}?" if close else "."
    prefix = f"{where}: " if where else ""
    listing = ", ".join(names)
    if len(names) > MOST_LISTED:
        like = difflib.get_close_matches(str(given), names, n=MOST_LISTED // 2, cutoff=0.3)
        listing = ", ".join([*like, "..."]) + f" ({len(names)} in all)"
    return UsageError(f"{prefix}unknown {kind} {given!r}{hint} Valid: {listing}.")


def pick(table: dict, kind: str, given: object, where: str = ""):
    """`table[given]`, or `unknown_name`'s error."""
    if not isinstance(given, str) or given not in table:
        raise unknown_name(kind, given, table, where)
    return table[given]
