"""Stands in for a package whose version that infernet-client asks for was never published."""
