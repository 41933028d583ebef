"""The clock that guards and clients use: nobody can set it, and it runs while the machine sleeps.

Where the system has no such clock (only Linux has CLOCK_BOOTTIME), time asleep does not count.
"""

import time as system


def time() -> float:
    return system.time()


def monotonic() -> float:
    if hasattr(system, "CLOCK_BOOTTIME"):
        return system.clock_gettime(system.CLOCK_BOOTTIME)
    return system.monotonic()
