"""Write docs/reference from the code; with --check only tell which page is stale.

usage: python scripts/reference.py [--check]
"""

import ast
import asyncio
import inspect
import itertools
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from message_tables import filled
from pydantic import BaseModel

from moorage.api.app import create_app
from moorage.cli.main import app as commands
from moorage.errors import MoorageError
from moorage.model.limits import Limits
from moorage.networks.infrax.config import SurfaceConfig
from moorage.networks.infrax.manifest import Knobs
from moorage.networks.manifest import AppFile, DeclaredLimits, NetworkAccess
from moorage.node.config import NodeConfig, load_config
from moorage.node.node import Node

REFERENCE = Path(__file__).parent.parent / "docs" / "reference"
MESSAGES = "aleph-messages"
"""The page whose tables are written from the code, and the rest by hand."""
NOTE = "<!-- Written by scripts/reference.py from the code; run `make docs` instead of editing. -->\n\n"


def main() -> int:
    """Write or check every page; 1 if one is stale."""
    written = {"cli": cli(), "api": asyncio.run(api()), "configuration": configuration(), "errors": errors()}
    pages = {name: NOTE + text for name, text in written.items()}
    pages[MESSAGES] = filled(_read(MESSAGES) or "")
    stale = [name for name, text in pages.items() if _read(name) != text]
    if "--check" not in sys.argv:
        for name, text in pages.items():
            (REFERENCE / f"{name}.md").write_text(text)
        return 0
    for name in stale:
        print(f"docs/reference/{name}.md is stale: run `make docs`")
    return 1 if stale else 0


def _read(name: str) -> str | None:
    path = REFERENCE / f"{name}.md"
    return path.read_text() if path.exists() else None


def cli() -> str:
    """Describe every command."""
    text = commands.generate_docs(output_format="markdown").rstrip()
    return text.replace("# moorage\n", "# Commands\n", 1) + "\n" + textwrap.dedent(
        """
        ## Exit status

        | status | meaning |
        |---|---|
        | 0 | it was done; for `run` and `job wait`: the job succeeded |
        | 1 | the app failed |
        | 2 | bad usage or bad source |
        | 3 | the node could not do it |
        | 130 | interrupted, or the job was cancelled |

        ## Environment

        | variable | meaning |
        |---|---|
        | `MOORAGE_URL` | address of the node to use, such as `http://127.0.0.1:4000` |
        | `MOORAGE_TOKEN` | token for that node |
        | `MOORAGE_DATA_DIR` | data directory, where `MOORAGE_URL` is not set |
        | `NO_COLOR` | if set, nothing is coloured |
        """
    )  # fmt: skip


def configuration() -> str:
    """Describe the node's file and the app's file."""
    return "\n".join(
        [
            "# Configuration\n",
            "## The node's file\n",
            "TOML, given with `moorage serve --config FILE`. Flags overrule it; an unknown key is an error.\n",
            _settings(NodeConfig, skip=()),
            "### `[networks.infrax]`\n",
            f"{inspect.getdoc(SurfaceConfig)}\n",
            "The tables of the network's own `config.toml` may be pasted below it as they are.\n",
            _settings(SurfaceConfig, skip=()),
            "## The app's file\n",
            "`moorage.toml` in the root of an app is optional. An unknown key is an error.\n",
            _settings(AppFile, skip=("limits", "network_access")),
            "### `[limits]`\n",
            'What the app needs where a job does not say otherwise. Sizes are bytes, or such as `"512MiB"`.\n',
            _limits(),
            "### `[network-access]`\n",
            "What the app asks to reach; the operator decides.\n",
            _settings(NetworkAccess, skip=()),
            "### `[infrax]`\n",
            _settings(Knobs, skip=()),
        ]
    )


def errors() -> str:
    """Describe the catalogue of errors."""
    lines = [
        "# Errors\n",
        "Every failure has a code, the same on the command line, in the API and in the history of a job.",
        "`exit` is the status of a command that ends with it, `status` the HTTP status, `retry` whether the same",
        "request can succeed later.\n",
        "| code | message | hint | status | exit | retry |",
        "|---|---|---|---|---|---|",
    ]
    for kind in sorted(_kinds(MoorageError), key=lambda kind: kind.code):
        error = kind()
        texts = (f"`{kind.code}`", _cell(error.message), _cell(error.hint))
        lines.append(_row(*texts, kind.status, error.exit_status, "yes" if error.retryable else ""))
    return "\n".join(lines) + "\n"


def _kinds(kind: type[MoorageError]) -> Iterator[type[MoorageError]]:
    for child in kind.__subclasses__():
        yield child
        yield from _kinds(child)


async def api() -> str:
    """Describe the HTTP API."""
    with tempfile.TemporaryDirectory() as directory:
        async with Node.open(load_config(None, data_dir=Path(directory)), working=False) as node:
            document = create_app(node).openapi()
    lines = [
        "# HTTP API\n",
        f"{document['info']['description']}\n",
        "The machine-readable form is at `/openapi.json`.\n",
    ]
    tag = None
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if (new := (operation.get("tags") or ["network"])[0]) != tag:
                tag = new
                lines.append(f"## {tag.capitalize()}\n")
            lines += _operation(method.upper(), path, operation)
    lines.append("## Schemas\n")
    for name, schema in sorted(document["components"]["schemas"].items()):
        lines += _schema(name, schema)
    return "\n".join(lines)


def _operation(method: str, path: str, operation: dict[str, Any]) -> list[str]:
    lines = [f"### `{method} {path}`\n", operation.get("description", "") + "\n"]
    if parameters := operation.get("parameters"):
        lines += ["| parameter | in | type | meaning |", "|---|---|---|---|"]
        for each in parameters:
            required = "" if not each.get("required") else " (required)"
            meaning = _cell(each.get("description"))
            lines.append(f"| `{each['name']}`{required} | {each['in']} | {_type(each['schema'])} | {meaning} |")
        lines.append("")
    if body := operation.get("requestBody"):
        lines.append(f"Body: {_content(body['content'])}.\n")
    lines += ["| status | answer |", "|---|---|"]
    for status, answer in sorted(operation["responses"].items()):
        what = _content(answer.get("content", {}))
        lines.append(f"| {status} | {_cell(answer['description'])}{': ' + what if what else ''} |")
    return [*lines, ""]


def _schema(name: str, schema: dict[str, Any]) -> list[str]:
    lines = [
        f"### {name}\n",
        f"{(schema.get('description') or '').splitlines()[0] if schema.get('description') else ''}\n",
    ]
    if "enum" in schema:
        return [*lines, "One of " + ", ".join(f"`{value}`" for value in schema["enum"]) + ".\n"]
    lines += ["| field | type | default | meaning |", "|---|---|---|---|"]
    for field, facts in schema.get("properties", {}).items():
        default = "required" if field in schema.get("required", ()) else _default(facts.get("default"))
        lines.append(f"| `{field}` | {_type(facts)} | {default} | {_cell(facts.get('description'))} |")
    return [*lines, ""]


def _content(content: dict[str, Any]) -> str:
    return ", ".join(
        f"{kind} ({_type(facts['schema'])})" if "schema" in facts else kind for kind, facts in content.items()
    )


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(_type(choice) for choice in schema[key]))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return str(schema.get("format") or schema.get("type") or "any")


def _settings(model: type[BaseModel], skip: tuple[str, ...]) -> str:
    told = _docstrings(model)
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    properties = model.model_json_schema()
    for name, field in model.model_fields.items():
        if name in skip:
            continue
        key = field.alias or name
        default = "required" if field.is_required() else "" if field.default_factory else _default(field.default)
        meaning = _cell(field.description or told.get(name))
        lines.append(f"| `{key}` | {_kind(properties, key)} | {default} | {meaning} |")
    return "\n".join(lines) + "\n"


def _kind(schema: dict[str, Any], key: str) -> str:
    facts = schema["properties"].get(key, {})
    if "$ref" in facts or "items" in facts or facts.get("type") == "object":
        return "table" if "items" not in facts else "list"
    return _type(facts)


def _limits() -> str:
    told, defaults = _docstrings(Limits), Limits()
    lines = ["| key | default | meaning |", "|---|---|---|"]
    for name in DeclaredLimits.model_fields:
        default = _default(getattr(defaults, name, None))
        meaning = told.get(name) or _docstrings(DeclaredLimits).get(name)
        lines.append(f"| `{name}` | {default} | {_cell(meaning)} |")
    return "\n".join(lines) + "\n"


def _docstrings(kind: type) -> dict[str, str]:
    """Read the strings that stand below the fields of a class."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body
    return {
        field.target.id: text.value.value
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }


def _default(value: object) -> str:
    if value is None or isinstance(value, BaseModel) or value in ((), [], {}):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, int) and value >= 1 << 20 and not value % (1 << 20):
        return f"`{value >> 30} GiB`" if not value % (1 << 30) else f"`{value >> 20} MiB`"
    return f"`{value}`"


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
