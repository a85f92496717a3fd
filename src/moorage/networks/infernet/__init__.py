"""Ritual Infernet containers: HTTP services that answer `POST /service_output`."""
