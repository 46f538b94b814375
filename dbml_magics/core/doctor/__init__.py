"""Diagnose the environment, and measure what the services' documentation leaves open."""
