"""Plugins: what is said to programs, and what is made of what they answer."""
