"""Entry point of the `moorage` command."""
