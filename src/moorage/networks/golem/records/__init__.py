"""What the node remembers of Golem tasks: the network's own SQLite file."""
