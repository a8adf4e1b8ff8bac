"""From encoded images to pixels: decoded at one size, kept in a cache on disk or made anew each time."""
