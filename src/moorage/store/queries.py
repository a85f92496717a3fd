"""Named queries: each `sql/NAME.sql` belongs to the one module that runs it."""

from importlib.resources import files


def load(name: str) -> dict[str, str]:
    """Read the queries of `sql/<name>.sql`, each below its own line `-- name: <query>`."""
    text = files("moorage.store").joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")
    parts = (part.split("\n", 1) for part in text.split("-- name: ")[1:])
    return {head.strip(): body.strip() for head, body in parts}
