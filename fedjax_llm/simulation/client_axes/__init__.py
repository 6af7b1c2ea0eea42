"""Client axes: how the clients of a round run inside compiled programs."""
