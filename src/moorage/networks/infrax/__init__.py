"""InfraX apps: a folder with main.py, files in, keyword arguments, files and text out."""
