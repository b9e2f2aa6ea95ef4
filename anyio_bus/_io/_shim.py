"""Exec shim, run as ``python -I -S _shim.py ERROR_FD PARENT_PID LC_CTYPE OPTIONS ARGV...``.

It applies the options (see ``launch.py``), asks Linux for SIGKILL when the parent dies (prctl(2),
PR_SET_PDEATHSIG; a change of user would undo it), makes sure that the parent did not die before
that, undoes what the interpreter did to signals and locale, and executes ARGV. What fails writes
its errno and the option's name to ERROR_FD; an exec that succeeds closes it.
"""

import os
import sys

assert sys.platform != "win32"  # also tells the type checkers
TYPE_CHECKING = False
if TYPE_CHECKING:  # without the import, which costs milliseconds
    from typing import Any

PR_SET_PDEATHSIG = 1
SIGKILL = 9
SIG_DFL = 0
EPERM = 1


def find_prctl() -> "Any":
    """Return prctl(2); None where there is none. A limit on memory may forbid it later."""
    if sys.platform != "linux":
        return None
    try:
        import ctypes  # only Linux needs it  # noqa: PLC0415

        return ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError):
        return None


def apply(option: str, value: str) -> None:
    """Apply one option to this process."""
    if option == "rlimits":
        resource = __import__("resource")
        number, soft, hard = map(int, value.split(":"))
        resource.setrlimit(number, (soft, hard))
    elif option == "nice":
        os.nice(int(value))
    elif option == "groups":
        groups = [int(group) for group in value.split(",")]
        os.setgroups(groups)
        os.setgid(groups[0])
    elif option == "user":
        os.setuid(int(value))
    elif option == "umask":
        os.umask(int(value))


def give_up(error_fd: str, number: "int | None", option: str = "") -> None:
    """Tell why, and end."""
    os.write(int(error_fd), f"{number} {option}".strip().encode())
    os._exit(127)


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
    error_fd, parent, locale, options, *argv = sys.argv[1:]
    os.set_inheritable(int(error_fd), False)
    prctl = find_prctl()
    if options:
        __import__("warnings")  # execvp wants it, and that user may not read our library
    default_signals()
    for part in options.split(";") if options else ():
        option, _, value = part.partition("=")
        try:
            apply(option, value)
        except OSError as exc:
            give_up(error_fd, exc.errno, option)
        except ValueError:  # what setrlimit makes of a hard limit above ours
            give_up(error_fd, EPERM, option)
    if prctl is not None:
        prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
        if os.getppid() != int(parent):
            os._exit(1)
    if locale:  # "=" and the value; the interpreter makes its own of one that is C, or missing
        os.environ["LC_CTYPE"] = locale[1:]
    else:
        os.environ.pop("LC_CTYPE", None)
    try:
        os.execvp(argv[0], argv)
    except OSError as exc:
        give_up(error_fd, exc.errno)
    os._exit(127)


main()
