package segments

import "encoding/binary"

// The innermost loops over chunks. Of lists, little-endian and 16 bits an ordinal, and of
// bits they read eight bytes at a time.

// setList sets the ordinals of a list in words.
func setList(w *[chunkWords]uint64, list []byte) {
	p := list
	for ; len(p) >= 8; p = p[8:] {
		four := binary.LittleEndian.Uint64(p)
		w[uint16(four)>>6] |= 1 << (four & 63)
		w[uint16(four>>16)>>6] |= 1 << (four >> 16 & 63)
		w[uint16(four>>32)>>6] |= 1 << (four >> 32 & 63)
		w[four>>54] |= 1 << (four >> 48 & 63)
	}
	for ; len(p) >= 2; p = p[2:] {
		v := binary.LittleEndian.Uint16(p)
		w[v>>6] |= 1 << (v & 63)
	}
}

func clearList(w *[chunkWords]uint64, list []byte) {
	p := list
	for ; len(p) >= 8; p = p[8:] {
		four := binary.LittleEndian.Uint64(p)
		w[uint16(four)>>6] &^= 1 << (four & 63)
		w[uint16(four>>16)>>6] &^= 1 << (four >> 16 & 63)
		w[uint16(four>>32)>>6] &^= 1 << (four >> 32 & 63)
		w[four>>54] &^= 1 << (four >> 48 & 63)
	}
	for ; len(p) >= 2; p = p[2:] {
		v := binary.LittleEndian.Uint16(p)
		w[v>>6] &^= 1 << (v & 63)
	}
}

// countList is how many of a list are set in words.
func countList(w *[chunkWords]uint64, list []byte) (n uint64) {
	p := list
	for ; len(p) >= 8; p = p[8:] {
		four := binary.LittleEndian.Uint64(p)
		n += w[uint16(four)>>6]>>(four&63)&1 +
			w[uint16(four>>16)>>6]>>(four>>16&63)&1 +
			w[uint16(four>>32)>>6]>>(four>>32&63)&1 +
			w[four>>54]>>(four>>48&63)&1
	}
	for ; len(p) >= 2; p = p[2:] {
		v := binary.LittleEndian.Uint16(p)
		n += w[v>>6] >> (v & 63) & 1
	}
	return n
}

// countLists is how many two lists share.
func countLists(w *[chunkWords]uint64, a, b []byte) uint64 {
	if len(a) > len(b) {
		a, b = b, a
	}
	clear(w[:])
	setList(w, a)
	return countList(w, b)
}

// orBits, andBits and clearBits join words with bits.

func orBits(w *[chunkWords]uint64, in []byte) {
	for i, p := 0, in; i <= chunkWords-4 && len(p) >= 32; i, p = i+4, p[32:] {
		w[i] |= binary.LittleEndian.Uint64(p)
		w[i+1] |= binary.LittleEndian.Uint64(p[8:])
		w[i+2] |= binary.LittleEndian.Uint64(p[16:])
		w[i+3] |= binary.LittleEndian.Uint64(p[24:])
	}
}

func andBits(w *[chunkWords]uint64, in []byte) {
	for i, p := 0, in; i <= chunkWords-4 && len(p) >= 32; i, p = i+4, p[32:] {
		w[i] &= binary.LittleEndian.Uint64(p)
		w[i+1] &= binary.LittleEndian.Uint64(p[8:])
		w[i+2] &= binary.LittleEndian.Uint64(p[16:])
		w[i+3] &= binary.LittleEndian.Uint64(p[24:])
	}
}

func clearBits(w *[chunkWords]uint64, in []byte) {
	for i, p := 0, in; i <= chunkWords-4 && len(p) >= 32; i, p = i+4, p[32:] {
		w[i] &^= binary.LittleEndian.Uint64(p)
		w[i+1] &^= binary.LittleEndian.Uint64(p[8:])
		w[i+2] &^= binary.LittleEndian.Uint64(p[16:])
		w[i+3] &^= binary.LittleEndian.Uint64(p[24:])
	}
}

// setMarks marks the ordinals of a list.
func setMarks(m *[1 << chunkBits]uint8, list []byte, mark uint8) {
	p := list
	for ; len(p) >= 8; p = p[8:] {
		four := binary.LittleEndian.Uint64(p)
		m[uint16(four)] = mark
		m[uint16(four>>16)] = mark
		m[uint16(four>>32)] = mark
		m[four>>48] = mark
	}
	for ; len(p) >= 2; p = p[2:] {
		m[binary.LittleEndian.Uint16(p)] = mark
	}
}

// countMarks is how many of a list have a mark that is larger than all others.
func countMarks(m *[1 << chunkBits]uint8, list []byte, mark uint8) (n uint64) {
	carries := 256 - uint64(mark)
	p := list
	for ; len(p) >= 8; p = p[8:] {
		four := binary.LittleEndian.Uint64(p)
		n += (uint64(m[uint16(four)])+carries)>>8 +
			(uint64(m[uint16(four>>16)])+carries)>>8 +
			(uint64(m[uint16(four>>32)])+carries)>>8 +
			(uint64(m[four>>48])+carries)>>8
	}
	for ; len(p) >= 2; p = p[2:] {
		n += (uint64(m[binary.LittleEndian.Uint16(p)]) + carries) >> 8
	}
	return n
}

// moveList gives those of a list that have one mark another, and counts them.
func moveList(m *[1 << chunkBits]uint8, list []byte, from, to uint8) (n uint64) {
	for p := list; len(p) >= 2; p = p[2:] {
		if x := &m[binary.LittleEndian.Uint16(p)]; *x == from {
			*x = to
			n++
		}
	}
	return n
}

// markOthers marks those of a list that have neither of two marks by the second, and
// counts them.
func markOthers(m *[1 << chunkBits]uint8, list []byte, mark, by uint8) (n uint64) {
	for p := list; len(p) >= 2; p = p[2:] {
		if x := &m[binary.LittleEndian.Uint16(p)]; *x != mark && *x != by {
			*x = by
			n++
		}
	}
	return n
}

// moveInBits is moveList for those of a list that are in bits, moveInRuns in runs, and
// moveFound in a longer list.
func moveInBits(m *[1 << chunkBits]uint8, list, in []byte, from, to uint8) (n uint64) {
	w := (*[8 * chunkWords]byte)(in)
	for p := list; len(p) >= 2; p = p[2:] {
		if v := binary.LittleEndian.Uint16(p); w[v>>3]>>(v&7)&1 != 0 && m[v] == from {
			m[v] = to
			n++
		}
	}
	return n
}

func moveInRuns(m *[1 << chunkBits]uint8, list, runs []byte, from, to uint8) (n uint64) {
	for p := list; len(p) >= 2 && len(runs) >= 4; {
		v, first := binary.LittleEndian.Uint16(p), binary.LittleEndian.Uint16(runs)
		if v >= first && v-first > binary.LittleEndian.Uint16(runs[2:]) {
			runs = runs[4:]
			continue
		}
		if v >= first && m[v] == from {
			m[v] = to
			n++
		}
		p = p[2:]
	}
	return n
}

func moveFound(m *[1 << chunkBits]uint8, list, longer []byte, from, to uint8) (n uint64) {
	for p := list; len(p) >= 2; p = p[2:] {
		v := binary.LittleEndian.Uint16(p)
		if m[v] != from {
			continue
		}
		if longer = notBefore(longer, v); len(longer) >= 2 && binary.LittleEndian.Uint16(longer) == v {
			m[v] = to
			n++
		}
	}
	return n
}

// notBefore is what a list has that is not before v: near its start, if it can be.
func notBefore(list []byte, v uint16) []byte {
	at, end := 0, 1 // what is before at is before v, what is from end on is not, if there is any
	for end*2 <= len(list) && binary.LittleEndian.Uint16(list[2*(end-1):]) < v {
		at, end = end, 2*end
	}
	end = min(end, len(list)/2)
	for at < end {
		if mid := (at + end) / 2; binary.LittleEndian.Uint16(list[2*mid:]) < v {
			at = mid + 1
		} else {
			end = mid
		}
	}
	return list[2*at:]
}
