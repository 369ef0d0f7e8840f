"""What people look at: plots, picture grids and, later, explanations."""
