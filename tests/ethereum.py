"""Ethereum's own library, as an oracle.

One of its dependencies raises the limit of recursion of the whole process to 100,000, at which deeply nested JSON ends
the interpreter. It is put back here; nothing in `src` may import that library without doing the same.
"""

import sys

_limit = sys.getrecursionlimit()

from eth_account import Account  # noqa: E402
from eth_account.messages import encode_defunct  # noqa: E402

sys.setrecursionlimit(_limit)

__all__ = ["Account", "encode_defunct"]
