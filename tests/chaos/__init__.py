"""Real processes on the embedded cloud, killed, stopped and cut off at random moments."""
