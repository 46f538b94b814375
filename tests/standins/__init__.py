"""Servers on 127.0.0.1 that stand for a cloud service; the real client libraries talk to them."""
