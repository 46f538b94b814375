"""Tests, what they stand on, and benchmarks."""
