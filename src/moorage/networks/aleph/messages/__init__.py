"""Aleph VM programs: functions and executables that are published as signed messages."""
