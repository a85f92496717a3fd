"""Measurements: one command per published figure, always as a ratio against an alternative in the same run."""
