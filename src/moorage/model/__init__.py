"""The nouns of the node as frozen dataclasses, with their states and transition tables."""
