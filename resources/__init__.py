"""What is plugged into the graph: launchers, the production it learns from, and profiles that choose among them."""
