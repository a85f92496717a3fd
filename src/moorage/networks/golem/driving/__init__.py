"""Driving one task from CreateTask to its end (contract, sections 2.2 to 2.8)."""
