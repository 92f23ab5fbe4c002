"""The asset graph, one thin module per stage: an asset names its work, the stage runner does it."""
