"""Run every measurement: `uv run python -m bench`."""

from bench import (
    aleph_cold,
    aleph_warm,
    big_input,
    cli_start,
    cold_start,
    infernet_latency,
    infernet_start,
    infernet_stream,
    infernet_throughput,
    queue,
    throughput,
)

INFERNET = (infernet_latency, infernet_throughput, infernet_stream, infernet_start)
ALEPH = (aleph_warm, aleph_cold)

for measurement in (cli_start, cold_start, throughput, queue, big_input, *INFERNET, *ALEPH):
    measurement.main()
