"""MLflow as it answers plain, and as it answers through a link: one table of calls, played on both.

``stories`` tell what is called, :mod:`.player` plays a story and notes each answer, :mod:`.places` has the
three servers and reads what stands there afterwards, :mod:`.table` compares, :mod:`.judged` lists the methods
that are none of the table's business and the deviations that are meant, :mod:`.sequences` draws sequences of
calls, and :mod:`.autologging` trains with other libraries.

    python -m tests.conformance                     the table, its deviations in full
    python -m tests.conformance experiments/rename  one story, or a group's
    python -m tests.conformance --examples 2000     random sequences, those that fail made smaller
    python -m tests.conformance --autolog           every library that is installed
"""
