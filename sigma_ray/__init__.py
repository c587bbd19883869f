"""sigma_ray: adapters for frozen vision foundation models, and the studies that compare them."""
