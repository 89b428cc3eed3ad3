"""A fleet: many devices, each with its stream and its scene, and one teacher that they share."""
