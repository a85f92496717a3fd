"""Files of tasks: where they are, how they pass between apps that trust nobody, and how results leave."""
