"""An Infernet container as authors write them: FastAPI on uvicorn, answering at once."""

import socket
from typing import Any

import uvicorn
from fastapi import FastAPI

app = FastAPI()


@app.post("/service_output")
async def service_output(request: dict[str, Any]) -> dict[str, Any]:
    return {"output": request["data"]["text"]}


if __name__ == "__main__":
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run([listener])
