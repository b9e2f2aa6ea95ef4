"""Exec shim, run as ``python -I -S _shim.py ERROR_FD PARENT_PID LC_CTYPE ARGV...``.

It asks Linux for SIGKILL when the parent dies (prctl(2), PR_SET_PDEATHSIG), makes sure that the
parent did not die before that, undoes what the interpreter did to signals and locale, and executes
ARGV. An exec that fails writes its errno to ERROR_FD; one that succeeds closes it.
"""

import os
import sys

PR_SET_PDEATHSIG = 1
SIGKILL = 9
SIG_DFL = 0


def die_with_parent(parent: int) -> None:
    """Have this process killed when the thread that spawned it ends."""
    if sys.platform != "linux":
        return
    try:
        import ctypes  # only Linux needs it  # noqa: PLC0415

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        return
    if os.getppid() != parent:
        os._exit(1)


def default_signals() -> None:
    """Undo what the interpreter, or our parent, ignores or blocks: exec would hand that on."""
    signal = __import__("_signal")  # the full module costs a millisecond
    for number in signal.valid_signals():
        try:
            signal.signal(number, SIG_DFL)
        except (OSError, ValueError):  # SIGKILL and SIGSTOP are what they are
            continue
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def main() -> None:
    """Set up and execute; never returns."""
    error_fd, parent, locale, *argv = sys.argv[1:]
    os.set_inheritable(int(error_fd), False)
    die_with_parent(int(parent))
    if locale:  # "=" and the value; the interpreter makes its own of one that is C, or missing
        os.environ["LC_CTYPE"] = locale[1:]
    else:
        os.environ.pop("LC_CTYPE", None)
    default_signals()
    try:
        os.execvp(argv[0], argv)
    except OSError as exc:
        os.write(int(error_fd), str(exc.errno).encode())
    os._exit(127)


main()
