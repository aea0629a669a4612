"""Information emergence: what successive layers tell of each other, for whole texts and for their tokens alone."""
