"""Group-and-shuffle (GS) matrices: their classes, projections onto them, orthogonal members, and density."""
