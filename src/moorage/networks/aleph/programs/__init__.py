"""Programs as this node runs them: what they find, their processes, their requests and what else starts them."""
