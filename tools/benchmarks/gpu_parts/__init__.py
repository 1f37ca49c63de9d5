"""The parts of tools/benchmarks/gpu.py: correctness, speed, feeding; how their cases run, and the page of results."""
