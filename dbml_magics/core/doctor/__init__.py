"""Looking at everything that can be wrong, and measuring what the services' documents leave open."""
