"""Says in a sentence what JAX's coordination service says in a page when it aborts the process.

When several processes work together and one is lost, that service ends the others from a thread of
its own (`LOG(FATAL)`), which Python cannot intercept. So standard error is piped through this
program, which outlives them:

    python -I fatal_log.py MESSAGE_WHERE_PROCESSES_DID_NOT_COME MESSAGE_WHERE_ONE_WAS_LOST
"""

import re
import sys


def main(not_come: str, lost: str) -> None:
    for line in sys.stdin.buffer:
        if re.search(rb"F\d{4} .*JAX distributed service detected fatal errors", line):
            rest = sys.stdin.buffer.read()  # Until the process has ended.
            line = f"error: {not_come if b'/RegisterTask' in rest else lost}\n".encode()
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
