"""`python -m hourpass`: the command, where it is not on the PATH."""

import sys

from hourpass.cli import main

# `python -m` puts the current directory on the path. The service is the package `app`, and many a
# project has one of that name.
if not sys.flags.safe_path:
    del sys.path[0]

main()
