"""Review of candidates by people: what they decide, the server that a browser talks to, and labels made of it."""
