"""The durable truth: apps, jobs, attempts, events and tokens."""
