"""Runners in containers: the engine, the image, and a container for each runner."""
