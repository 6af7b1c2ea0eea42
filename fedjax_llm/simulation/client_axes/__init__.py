"""Client axes: ways to run the clients of a round."""
