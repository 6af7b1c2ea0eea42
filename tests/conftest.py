import jax

# Programs here are compiled often and run once: compile fast.
jax.config.update("jax_disable_most_optimizations", True)
