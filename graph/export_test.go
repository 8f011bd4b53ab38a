package graph

// SetSupersteps bounds the supersteps of an entry, so that a simulation
// carries messages often.
func SetSupersteps(l *Lane, n int) { l.supersteps = n }
