"""What can go wrong, as types: mistakes a user can mend, and runs that end for a reason.

Every message is one line that names the file or the field, what was expected, what was received and what to do.
The command line turns a `UserError` into exit status 2; anything else is a defect of ours (status 1).
"""

from __future__ import annotations

from typing import Self

MAX_RECEIVED = 400
"""Characters of what was received that a message shows: a hostile file must not flood the terminal."""


def printable(text: str) -> str:
    """`text` with escapes in place of what a terminal would obey or cannot show; its lines stay. Names of files and
    classes may hold any character."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


class DetsearchError(Exception):
    """Base of all errors that this package raises on purpose."""


class UserError(DetsearchError):
    """Something that the user can mend.

    `where` is the file, field or option; `expected` says what would have been right; `received` what was found there;
    `hint` what to do.
    """

    def __init__(self, where: str, expected: str, received: str | None = None, hint: str | None = None) -> None:
        self.where, self.expected, self.received, self.hint = where, expected, received, hint
        text = f"{where}: expected {expected}"
        if received is not None:
            text += f", got {received if len(received) <= MAX_RECEIVED else received[:MAX_RECEIVED] + '...'}"
        if hint is not None:
            text += f"; {hint}"
        super().__init__(printable(" ".join(text.split())))

    def within(self, part: str) -> Self:
        """The same mistake, in a part of something bigger: the part is named before the place."""
        return type(self)(f"{part}: {self.where}", self.expected, self.received, self.hint)

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process borders; the default would call __init__ with the finished message only.
        return type(self), (self.where, self.expected, self.received, self.hint)


class SpecError(UserError):
    """An architecture that does not exist: unknown token, wrong field, impossible combination."""


class RecipeError(UserError):
    """A recipe or an option with an unknown key, a wrong type or a value out of range."""


class DataError(UserError):
    """A dataset that cannot be used as it is."""


class CheckpointError(UserError):
    """A file that is not a checkpoint, is damaged, or belongs to another network."""


class StudyError(UserError):
    """A study folder that is not one, belongs to another search, or is in use."""


class ResourceError(UserError):
    """The machine lacks something: a device, disk space, permission, weights, a library."""


class TrainingError(DetsearchError):
    """A training run that ended without a result, for a stated reason (a loss that stopped being finite)."""
