"""Histories of a link, played in one process: the engine's own code, two destinations in memory, a clock.

A seed draws what a training logs and what befalls it: lost answers, half batches, refusals, outages, time
that passes, and the end of the process between any two steps. Then there is peace, and both destinations
are compared with what was acknowledged.
"""
