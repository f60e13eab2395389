"""`make demo`: the main job on one device, with real processes, told step by step. The parts are the product's own."""
