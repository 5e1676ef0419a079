"""Library of lifecycle nodes that other packages build on."""
