"""Workers to test with, each run as ``python -m anyio_bus.testing.workers.NAME``.

=================  =============================================================================
``echo``           does what it is asked to, on :mod:`anyio_bus.worker`
``tenlines``       answers with the params, in ten lines of plain Python
``crash_at_start`` writes three lines to stderr and exits with status 3
``close_stdin``    closes its stdin at the request ``close_stdin``, and lives on
``deaf``           never reads its stdin, ignores its end, and lives on
``flood``          writes notifications as fast as it can, and answers nothing
``garbage``        writes lines that are no messages, around good answers
``half_line``      answers its first request with half a line, and exits
``hang_up``        closes its stdout at the request ``hang_up``, and lives on
``hold_pipe``      has a child of its own that holds all its pipes open
``ignore_term``    ignores SIGTERM and the end of its stdin
``mute``           reads, and never answers
``oversize``       answers ``big`` with as many bytes as it is told to, its id first or last
``slow_start``     answers ``initialize`` after a delay
``stderr_flood``   writes 4 MiB to stderr before each answer
=================  =============================================================================

All but ``echo`` need only the standard library and can be run by their paths with ``python -I -S``.
Those that outlive their stdin end by themselves after a minute, whatever happens.
"""
