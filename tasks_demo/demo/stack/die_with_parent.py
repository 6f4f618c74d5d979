"""Run by path, not imported: ``python -I -S die_with_parent.py PARENT_PID COMMAND [ARGUMENT ...]``.

Ask the kernel (Linux) to SIGKILL this process when its parent ends, then exec COMMAND, to which the request still applies. This
is a separate program because running code between fork and exec is unsafe if the parent has threads. Exit 127: COMMAND cannot be
run; 125: the kernel refused.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        print(f"{command[0]}: prctl failed: {os.strerror(ctypes.get_errno())}", file=sys.stderr)  # noqa: T201
        sys.exit(125)
    # If the parent died before the request was made, the kernel will not send the signal.
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        os.execvp(command[0], command)  # noqa: S606
    except OSError as error:
        print(f"{command[0]} cannot be run: {error.strerror}", file=sys.stderr)  # noqa: T201
        sys.exit(127)


main()
