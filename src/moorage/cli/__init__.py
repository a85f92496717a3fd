"""The command line: noun-verb commands on top of the client."""
