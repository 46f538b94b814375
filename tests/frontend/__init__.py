"""What a user sees: lines typed into a shell or a kernel, on a session that is made up."""
