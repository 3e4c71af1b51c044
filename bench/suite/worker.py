"""One library in a process of its own: `worker.py LIBRARY [SOCKET]`.

Takes JSON lines on standard input, `{"prepare": [METHOD, ARGUMENTS]}` and `{"run": SECONDS}`, and answers each with one line: the result of
one computation (for comparison, as a file), and the seconds that one computation took.
"""

import json
import os
import sys
import time

import numpy as np

from libraries import LIBRARIES


def main():
    library, *more = sys.argv[1:]
    library = LIBRARIES[library](*more)
    # Whatever a library prints is not an answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    compute = None
    for line in sys.stdin:
        order = json.loads(line)
        if "prepare" in order:
            method, arguments = order["prepare"]
            compute = getattr(library, method)(*arguments)
            result = np.asarray(compute()) if order.get("save") else compute()
            if order.get("save"):
                np.save(order["save"], result)
            answer = {"prepared": True}
        else:
            start, count = time.perf_counter(), 0
            while count == 0 or time.perf_counter() - start < order["run"]:
                compute()
                count += 1
            answer = {"seconds": (time.perf_counter() - start) / count}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
