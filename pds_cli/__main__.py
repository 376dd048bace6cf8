"""`python -m pds_cli` is `pds`: the first and the last thing that a process of it does.

Nothing heavy is imported at the top, so that Ctrl-C is answered in a line from the start.
"""

import os
import signal
import sys


def main() -> int:
    """Runs the command line of this process; returns the exit code."""
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends it as Ctrl-C does
    try:
        from pds_cli.streams import lasting_streams

        lasting_streams()
        from pds_cli.cli import main as run

        code = run()
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = interrupted()
    except OSError as error:  # a full disk, say: pds list > file
        what = error.filename or "standard output"
        print(f"pds: cannot use {what}: {error.strerror or error}.", file=sys.stderr)
        code = _silenced(2)
    # From here on there is nothing to save: what Python does at its end may be cut short.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return code


def interrupted() -> int:
    """Says that Ctrl-C came before or after a run; returns the exit code."""
    print("pds: interrupted.", file=sys.stderr)
    return 130


def _silenced(code: int) -> int:
    """Keeps Python from trying to write the rest once more, at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return code


if __name__ == "__main__":
    sys.exit(main())
