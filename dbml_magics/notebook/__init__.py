"""What IPython sees: the magics, tracked cells, completion, the live view."""
