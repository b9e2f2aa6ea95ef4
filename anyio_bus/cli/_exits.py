"""Own the exit codes, and the error of a command that has nothing more to say than one line."""

from __future__ import annotations

__all__ = ("EXIT_CODES", "FAILED", "INTERRUPTED", "OK", "READER_GONE", "WRONG_USE", "CommandError")

OK = 0
FAILED = 1
WRONG_USE = 2
INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
READER_GONE = 141  # 128 + SIGPIPE

EXIT_CODES = """\
exit codes:
  0    done
  1    it failed at run time: a worker did not start, died, or answered with an error
  2    wrong use: the arguments, or a configuration file (the message names file and field)
  130  interrupted by Ctrl-C, after a clean stop (143: by SIGTERM)
  141  whoever read the output went away
"""


class CommandError(Exception):
    """Ends the command with one line on stderr."""

    def __init__(self, text: str, code: int = FAILED) -> None:
        super().__init__(text)
        self.code = code
