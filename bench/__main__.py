"""Run every measurement: `uv run python -m bench`."""

from bench import big_input, cold_start, queue, throughput

for measurement in (cold_start, throughput, queue, big_input):
    measurement.main()
