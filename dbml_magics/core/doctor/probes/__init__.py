"""Measuring on real services what their documents leave open, in an experiment that is deleted afterwards."""
