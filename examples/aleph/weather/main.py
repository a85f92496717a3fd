"""A weather station of many hands: readings come as messages, by the clock they become daily summaries.

An Aleph program. Whoever publishes a POST of type `weather-reading` on the network, with `{"place", "celsius"}` and
maybe `"at"` (Unix seconds), adds to it:

    message trigger   a reading is checked and written down; what came already is known by the message's hash
    cron trigger      GET /summarise turns days that are over into one line each, and drops their readings
    HTTP              GET / is a page, GET /places, GET /places/{place} and GET /summaries are JSON

It keeps everything in SQLite on a volume, which outlives the program and its updates.
"""

import html
import json
import os
import sqlite3
import time
from contextlib import closing
from typing import Any

from aleph.sdk.vm.app import AlephApp
from fastapi import FastAPI, HTTPException
from fastapi.responses import HTMLResponse

FILE = "/var/lib/weather/readings.sqlite"
TITLE = os.environ.get("TITLE", "Weather")
DAY = 86_400
COLDEST, WARMEST = -90.0, 60.0
"""Degrees that were ever measured on Earth, roughly: what is beyond them is a broken thermometer."""

web = FastAPI(title=TITLE)
app = AlephApp(http_app=web)


def database() -> sqlite3.Connection:
    """Open the file; several requests may do so at once."""
    connection = sqlite3.connect(FILE, timeout=5)
    connection.row_factory = sqlite3.Row
    connection.executescript(
        """
        CREATE TABLE IF NOT EXISTS readings (message TEXT PRIMARY KEY, place TEXT, celsius REAL, at REAL);
        CREATE TABLE IF NOT EXISTS summaries (place TEXT, day TEXT, low REAL, mean REAL, high REAL, readings INTEGER,
                                              PRIMARY KEY (place, day));
        """
    )
    return connection


@app.event(filters=[{}])  # the SDK asks for one and takes any; `on.message` in moorage.toml says what is delivered
async def on_message(event: dict[str, Any]) -> dict[str, Any]:
    """Write down a reading that somebody published."""
    message = json.loads(event["body"])
    reading = message["content"]["content"]
    try:
        place, celsius = str(reading["place"])[:80], float(reading["celsius"])
        at = float(reading.get("at", message["content"]["time"]))
    except (KeyError, TypeError, ValueError):
        return {"ok": False, "reason": "a reading has a place and celsius"}
    if not COLDEST <= celsius <= WARMEST:
        return {"ok": False, "reason": f"{celsius} degrees are on no thermometer"}
    with closing(database()) as connection, connection:
        row = (message["item_hash"], place, celsius, at)
        new = connection.execute("INSERT OR IGNORE INTO readings VALUES (?, ?, ?, ?)", row).rowcount
    print(f"{place}: {celsius:g} degrees" if new else "known already")
    return {"ok": True, "new": bool(new)}


@web.get("/summarise")
def summarise(now: float | None = None) -> dict[str, int]:
    """Sum up the days that are over; asked every ten minutes, it mostly finds none."""
    today = ((now or time.time()) // DAY) * DAY
    with closing(database()) as connection, connection:
        made = connection.execute(
            """
            INSERT OR REPLACE INTO summaries
            SELECT place, date(at, 'unixepoch') AS day, min(celsius), round(avg(celsius), 2), max(celsius), count(*)
            FROM readings WHERE at < ? GROUP BY place, day
            """,
            (today,),
        ).rowcount
        dropped = connection.execute("DELETE FROM readings WHERE at < ?", (today,)).rowcount
    print(f"{made} summaries of {dropped} readings")
    return {"summaries": made, "readings": dropped}


@web.get("/places")
def places() -> list[dict[str, Any]]:
    """List the places with their latest reading."""
    with closing(database()) as connection:
        found = connection.execute(
            "SELECT place, celsius, max(at) AS at, count(*) AS readings FROM readings GROUP BY place ORDER BY place"
        )
        return [dict(row) for row in found]


@web.get("/places/{place}")
def readings(place: str) -> list[dict[str, Any]]:
    """List today's readings of a place, oldest first."""
    with closing(database()) as connection:
        found = [
            dict(row)
            for row in connection.execute("SELECT celsius, at FROM readings WHERE place = ? ORDER BY at", (place,))
        ]
    if not found:
        raise HTTPException(404, f"nobody has read a thermometer in {place} today")
    return found


@web.get("/summaries")
def summaries() -> list[dict[str, Any]]:
    """List all days that are over."""
    with closing(database()) as connection:
        return [dict(row) for row in connection.execute("SELECT * FROM summaries ORDER BY day, place")]


@web.get("/", response_class=HTMLResponse)
def page() -> str:
    """Show where it is how warm."""
    rows = "".join(
        f"<tr><td>{html.escape(each['place'])}<td>{each['celsius']:g} °C<td>{each['readings']} readings"
        for each in places()
    )
    return f"<!doctype html><title>{html.escape(TITLE)}</title><h1>{html.escape(TITLE)}</h1><table>{rows}</table>\n"
