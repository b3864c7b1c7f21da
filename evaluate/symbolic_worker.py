"""A process that compares pairs of expressions with math-verify until its input ends; started by `symbolic`.

Each line in is a JSON list [answer, reference], each line out `true` or `false`. The argument is the processor time,
in seconds, after which the kernel ends the process: also in the midst of one long operation on integers.
"""

import json
import logging
import resource
import signal
import sys

from math_verify import parse, verify

MEMORY_LIMIT_BYTES = 4 << 30


def main(time_limit_s: float) -> None:
    """Answers until the end of the input."""
    logging.disable(logging.ERROR)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business, its end is ours
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, time_limit_s)
        print(json.dumps(_equal(*json.loads(line))), flush=True)
        signal.setitimer(signal.ITIMER_PROF, 0)


def _equal(answer: str, reference: str) -> bool:
    """Whether the two are the same value; a text that cannot be read is equal to nothing."""
    expected, given = (parse(f"${t.strip().strip('$')}$", parsing_timeout=None) for t in (reference, answer))
    try:
        return bool(verify(expected, given, timeout_seconds=None))
    except (MemoryError, RecursionError, OverflowError):
        return False


if __name__ == "__main__":
    main(float(sys.argv[1]))
