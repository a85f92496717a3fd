"""`moorage token`: who may reach the node from elsewhere."""

from typing import Annotated

from cyclopts import App as Commands

from moorage.cli.options import help_of
from moorage.cli.render import err, moment, out, print_json, print_table
from moorage.cli.session import connect

token = Commands(name="token", help="Make and remove the tokens by which other machines reach the node.")

Json = Annotated[bool, help_of("Print one JSON document.")]


@token.command
def add(
    name: Annotated[str, help_of("Who it is for; apps and jobs made with it belong to this name.")],
    /,
    *,
    operator: Annotated[bool, help_of("Let it also see and stop everybody's jobs and apps.")] = False,
    json: Json = False,
) -> None:
    """Make a token and print it, this once; the node keeps only a hash of it."""
    with connect() as client:
        secret = client.add_token(name, operator=operator)
    if json:
        print_json({"name": name, "operator": operator, "token": secret})
        return
    out().print(secret)
    err().print("Keep it: it is not shown again. Give it to a client as MOORAGE_TOKEN.", style="dim")


@token.command(name="list")
def list_(*, json: Json = False) -> None:
    """List who has a token."""
    with connect() as client:
        tokens = client.tokens()
    if json:
        print_json(tokens)
        return
    rows = [(each["name"], "yes" if each["operator"] else "no", moment(each["created_at"])) for each in tokens]
    print_table(("NAME", "OPERATOR", "MADE"), rows, empty="There are no tokens.")


@token.command
def remove(name: Annotated[str, help_of("Name of the token.")], /) -> None:
    """Forget a token; it is refused from now on."""
    with connect() as client:
        client.remove_token(name)
