"""The node's own record of messages and files, and the one way into it."""
