"""What keeps a process apart from the machine and from other processes."""
