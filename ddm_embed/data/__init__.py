"""Images: where they come from, which of them make up a step, and how the device augments them."""
