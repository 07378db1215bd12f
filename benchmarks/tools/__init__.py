"""What the scripts share, and scripts that make or count something."""
