"""What the link costs and how soon writes arrive, beside what else there is."""
