"""Run an ASGI program. Started as `python DIRECTORY`, with one JSON document on standard input.

| key | what |
|---|---|
| `entrypoint` | `module:attribute`; or an attribute, if `module` is given |
| `module` | module of an entrypoint that names none, else null |
| `argv` | what the program finds as `sys.argv` |
| `path` | first entries of `sys.path`; the last holds packages that came with the program, the others its own code |
| `listener` | descriptor of a listening Unix socket; connections may wait in it before anything is served |
| `seconds` | how long the program may take to begin an answer, and between two pieces of one |
| `import_timeout`, `startup_timeout`, `shutdown_timeout` | seconds for what their names say |
| `traceback` | `public` shows tracebacks to clients, `hidden` does not |

It ends with status 0 after SIGTERM, with `NOT_IMPORTED` or `NOT_STARTED` (exits.py) if the program cannot be served,
with 1 if the import takes too long, and else as the program ends it. What is wrong is said on standard error.

The node speaks HTTP/1.1. The first header of every request is its own and is taken away:
`moorage: KIND RUN ROOT SCHEME HOST PORT`, where ROOT is the `root_path` or `-`, and HOST and PORT are the client's.

| kind | what | answer |
|---|---|---|
| `http` | a client's request; the target is the whole raw path, with ROOT | the program's |
| `ready` | whether the program is served | 200, `{"asgi": true, "lifespan": BOOL, "framework": TEXT or null}` |
| `event` | the body is the JSON text of a message | 200, `{"result": OBJECT or null}` |

Where the host answers in place of the program there is a header `moorage-error` (answers.py). What a program gives as
`output_data` comes as a header `moorage-output-data`, in base64 (contract, section 2.6, A28).

Lines that a run writes to standard output or error are written as `\\x1eRUN\\x1fTEXT\\n`; all else is passed as it is.
"""

import sys
from importlib import import_module

# The other modules are found as parts of this one, so that their names cannot be those of a program's modules.
__path__ = [sys.path.pop(0)]

import_module(f"{__name__}.serving").main()
