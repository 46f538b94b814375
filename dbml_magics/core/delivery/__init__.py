"""How writes reach a destination: what is delivered when, and by whom."""
