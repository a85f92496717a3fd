"""The Golem network: apps of its Task API, split into subtasks that are computed side by side."""
