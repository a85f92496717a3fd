"""The protocol between this node and apps: its messages, clients for both services, and the way to an app."""
