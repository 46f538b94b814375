"""What MLflow calls: the stores behind ``dbml:`` URIs, and the entry points by which MLflow finds them."""
