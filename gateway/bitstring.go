package gateway

// bitString reads the bit fields of a consent string from the text as it is: each
// character of web-safe base64 holds six bits, the highest first. After a field
// that is not whole, or lies in a character of another alphabet, short is set
// and every field is 0.
type bitString struct {
	s     string
	at    int // in bits
	short bool
}

// take reads n bits, at most 32.
func (b *bitString) take(n int) (v uint32) {
	for n > 0 {
		i := b.at / 6
		if b.short || i >= len(b.s) {
			b.short = true
			return 0
		}
		six, ok := sextet(b.s[i])
		if !ok {
			b.short = true
			return 0
		}
		left := 6 - b.at%6
		k := min(left, n)
		v = v<<k | six>>(left-k)&(1<<k-1)
		b.at += k
		n -= k
	}
	return v
}

// fibonacciBitsMax bounds a number: 20 bits go beyond 10,000.
const fibonacciBitsMax = 20

// fibonacci reads a number in Fibonacci coding: a bit for each of 1, 2, 3, 5,
// 8, …, the least first, and a 1 after the last that is set.
func (b *bitString) fibonacci() int {
	sum, this, next, last := 0, 1, 2, false
	for range fibonacciBitsMax {
		one := b.take(1) == 1
		if one && last {
			return sum
		}
		if one {
			sum += this
		}
		last = one
		this, next = next, this+next
	}
	b.short = true
	return 0
}

// sextet is the value of a character of web-safe base64.
func sextet(c byte) (uint32, bool) {
	switch {
	case c >= 'A' && c <= 'Z':
		return uint32(c - 'A'), true
	case c >= 'a' && c <= 'z':
		return uint32(c-'a') + 26, true
	case c >= '0' && c <= '9':
		return uint32(c-'0') + 52, true
	case c == '-':
		return 62, true
	case c == '_':
		return 63, true
	}
	return 0, false
}
