"""Programs that judge for the relay: asked and answering in lines of JSON, many at a time."""
