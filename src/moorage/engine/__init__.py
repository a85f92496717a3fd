"""Where attempts are placed."""
