"""Real-time endpoints: one protocol, and a target for each place where a model can be served.

``service`` is what the session calls; ``base`` is the protocol; ``local`` is the target on this machine, with
``server`` (the process behind an endpoint) and ``worker`` (the process behind a deployment). Importing this
package imports nothing heavy: the server's process needs neither MLflow nor pandas.
"""
