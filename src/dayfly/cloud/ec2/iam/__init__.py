"""Which calls are made, and the policies that allow just these."""
