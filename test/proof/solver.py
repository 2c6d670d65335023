"""Two solvers as one command, for halmos: reads an SMT-LIB file, prints `sat` or `unsat`, and a model when there is one.

Yices is five times as fast on batches; on a withdrawal, which adds and subtracts five fields of 64 bits and less, it does not
end, and bitwuzla does. So yices is asked first, and not for long. Both come as Python packages.
"""

import os
import resource
import subprocess
import sys

from bitwuzla import Option, Options, Parser, TermManager

YICES = [os.path.join(os.path.dirname(sys.executable), "yices-smt2"), "--smt2-model-format", "--bvconst-in-decimal"]
# Processor time, so that a busy machine changes nothing; a query that it answers takes a few seconds.
YICES_LIMIT_S = 20


def limit_time() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (YICES_LIMIT_S, YICES_LIMIT_S))


def ask_yices(path: str) -> bool:
    answer = subprocess.run([*YICES, path], capture_output=True, text=True, preexec_fn=limit_time, check=False).stdout
    if not answer.startswith(("sat", "unsat")):
        return False
    print(answer, end="")
    return True


def ask_bitwuzla(path: str) -> None:
    options = Options()
    options.set(Option.PRODUCE_MODELS, True)
    Parser(TermManager(), options).parse(path, False, True)


if not ask_yices(sys.argv[1]):
    ask_bitwuzla(sys.argv[1])
