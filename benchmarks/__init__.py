"""The numbers behind every "smaller" and "faster": `python -m benchmarks`."""
