"""Translators between the contracts of compute networks and the node."""
