"""Moorage runs apps of four compute networks on one isolated, durable node."""

__version__ = "0.1.0"
