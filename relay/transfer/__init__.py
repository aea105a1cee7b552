"""Events in and out of a relay's store as files of JSON lines."""
