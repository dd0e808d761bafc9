"""Instances that exist: seen, listed, changed, ended."""
