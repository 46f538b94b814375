"""What runs beside the data: batches of rows go in, their predictions come out, the same everywhere.

Spark's workers get these functions by value, since a cluster need not have the package; so these modules
import nothing of it but each other, at their head, and what a worker keeps between tasks is kept in a module
of its own. The process that scores a pandas frame calls the same functions.
"""
