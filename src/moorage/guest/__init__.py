"""The little of Moorage that runs inside sandboxes: standard library only, and nothing of the rest."""
