"""What the rest of the core speaks of: the operations of a link."""
