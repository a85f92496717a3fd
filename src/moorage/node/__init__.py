"""The running node: what turns accepted jobs into results."""
