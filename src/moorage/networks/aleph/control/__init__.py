"""What owners of programs may do with them, and what anybody may know of the node (contract, sections 4.5 and 4.6)."""
