"""The node's own HTTP API: parse, call, render."""
