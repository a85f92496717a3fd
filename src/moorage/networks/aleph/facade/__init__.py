"""The API of the network's nodes, as its clients know it, answered from the node's own ledger."""
