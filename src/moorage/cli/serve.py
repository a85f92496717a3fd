"""`moorage serve`: the node as a service."""

import os
from pathlib import Path
from typing import Annotated

from moorage.cli.options import help_of


def serve(
    *,
    host: Annotated[
        str | None, help_of("Address to listen on; beyond loopback the node's own API needs a token. [127.0.0.1]")
    ] = None,
    port: Annotated[int | None, help_of("TCP port; 0 lets the kernel choose. [4000]")] = None,
    data_dir: Annotated[Path | None, help_of("Where everything durable is kept. [$MOORAGE_DATA_DIR]")] = None,
    config: Annotated[Path | None, help_of("TOML file with settings; flags overrule it.")] = None,
    infernet_config: Annotated[
        Path | None,
        help_of("An Infernet node's config.json: run its containers, and answer its clients. [$INFERNET_CONFIG_PATH]"),
    ] = None,
) -> None:
    """Run the node and its HTTP API until it is stopped.

    SIGTERM and Ctrl-C stop it. Jobs that run then are stopped too, and run again at the next start unless they
    ask a service, which is asked once.
    """
    from moorage.cli import serving
    from moorage.cli.logs import log_everything
    from moorage.cli.settings import settings

    if infernet_config is None and "INFERNET_CONFIG_PATH" in os.environ:
        infernet_config = Path(os.environ["INFERNET_CONFIG_PATH"])
    found = settings(config, infernet_config, host=host, port=port, data_dir=data_dir)
    log_everything(found.log)
    serving.serve(found.node)
