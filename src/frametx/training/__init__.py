"""Everything that knows Lightning: modules, data modules, curriculum, callbacks."""
