"""What client, master and workers say to each other, and the doors between them."""
