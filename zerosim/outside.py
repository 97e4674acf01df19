"""Files from outside, looked at before they are opened: no reader waits for a pipe, or reads a device without end."""

import os
import stat

from zerosim.errors import InputError


def check_file(path: str | os.PathLike[str], what: str) -> int:
    """Return the bytes of a file. Raises InputError, which begins with `what`, for a folder, a pipe or a device.

    Raises OSError if there is none, and ValueError for what cannot be a name.
    """
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or a device"
        raise InputError(f"{what}: this is {kind}; it must be a file, which every rank reads by itself")
    return found.st_size
