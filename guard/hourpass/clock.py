"""The clock that guards and clients use: nobody can set it, and it runs while the machine sleeps.

On Windows, Python's own clock does. On other systems without such a clock, time asleep does not
count.
"""

import sys
import time as system


def time() -> float:
    return system.time()


def monotonic() -> float:
    # On macOS, Python's own clock stops in sleep. This one does not there, but does on Linux.
    name = "CLOCK_MONOTONIC_RAW" if sys.platform == "darwin" else "CLOCK_BOOTTIME"
    clock: int | None = getattr(system, name, None)
    return system.monotonic() if clock is None else system.clock_gettime(clock)
