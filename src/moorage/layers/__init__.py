"""Read-only directories made once and named by what went into them."""
