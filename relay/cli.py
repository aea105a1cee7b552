"""`torv relay …`: commands for who runs the relay. Output for people goes to standard error."""

import click


@click.group()
def relay() -> None:
    """Look after the relay's events."""
