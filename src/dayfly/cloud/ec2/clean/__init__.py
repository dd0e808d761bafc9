"""Everything of ours in an account: listed, and removed."""
