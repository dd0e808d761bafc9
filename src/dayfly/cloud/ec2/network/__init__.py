"""Where instances are launched, and who reaches them."""
