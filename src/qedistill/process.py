"""Which process something belongs to, told so that nobody is taken for it later."""

import os
import socket
from functools import cache


def identity(process: int | None = None) -> str:
    """Host, process and its time of start, `host 4711 1790000000`: an id that is not used again.

    Args:
        process: its number; this one's by default.
    """
    import psutil

    number = os.getpid() if process is None else process
    return f"{host()} {number} {psutil.Process(number).create_time():.0f}"


@cache
def host() -> str:
    """This host; in a container the container, which may bear its host's name but numbers processes for itself."""
    try:
        return f"{socket.gethostname()}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:  # not Linux
        return socket.gethostname()


def lives(owner: str) -> bool | None:
    """Whether the process of an identity runs; None where it cannot be known, as it is another host's."""
    import psutil

    where, _, rest = owner.partition(" ")
    if where != host():
        return None
    number, _, started = rest.partition(" ")
    try:
        process = psutil.Process(int(number))
        # The kernel counts from the boot, whose time by the clock may be told a second apart.
        return abs(process.create_time() - float(started)) < 3 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
