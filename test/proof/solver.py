"""Bitwuzla as a command, for halmos: reads an SMT-LIB file, prints `sat` or `unsat`, and a model when there is one.

Of the solvers that come as Python packages it is the one that ends on every query of these proofs; yices, halmos' default,
does not end on a withdrawal, which adds and subtracts five fields of 64 bits and less.
"""

import sys

from bitwuzla import Option, Options, Parser, TermManager

options = Options()
options.set(Option.PRODUCE_MODELS, True)
Parser(TermManager(), options).parse(sys.argv[1], False, True)
