"""What single engines want of a float graph or of types, and rewrites that follow from control flow."""
