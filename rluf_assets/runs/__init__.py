"""What a terminal does with the graph: how a run looks there, how it ends, and what it need not do."""
