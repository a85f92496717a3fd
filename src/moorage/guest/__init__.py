"""The little of Moorage that runs inside sandboxes, and imports nothing of the rest.

Standard library only; but the host of ASGI programs uses the web server of its program's runtime.
"""
