"""Arrays in, arrays out: no parameters, no state, no models."""
