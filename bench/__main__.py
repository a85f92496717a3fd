"""Run every measurement: `uv run python -m bench`."""

from bench import big_input, cli_start, cold_start, queue, throughput

for measurement in (cli_start, cold_start, throughput, queue, big_input):
    measurement.main()
