"""The host of ASGI programs: what runs inside the sandbox of one, and answers the node on an inherited socket.

The node shows this directory to the sandbox and starts Python with it, which runs `__main__.py`; that says how the two
talk. Standard library, uvicorn, httptools and, where they are installed, uvloop and websockets; nothing of the node.
"""
