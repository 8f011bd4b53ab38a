package graph

// Union is a plain union-find: what the users must be at rest, computed from
// the edges alone. It knows no cuts and no caps; it is for checks.
type Union struct{ up map[Hash]Hash }

// Pair is an edge without direction.
type Pair struct{ A, B Hash }

// NewUnion is a union in which everybody is alone.
func NewUnion() *Union { return &Union{map[Hash]Hash{}} }

// Root is the least identity that h is joined with.
func (u *Union) Root(h Hash) Hash {
	for {
		up, ok := u.up[h]
		if !ok {
			return h
		}
		if next, ok := u.up[up]; ok {
			u.up[h] = next
		}
		h = up
	}
}

// Join makes the users of a and b one.
func (u *Union) Join(a, b Hash) {
	a, b = u.Root(a), u.Root(b)
	if less(b, a) {
		a, b = b, a
	}
	if a != b {
		u.up[b] = a
	}
}
