package proto

import "encoding/binary"

// RoaringContainers is how many containers the bytes of a portable 32-bit roaring
// bitmap say that it has: its reader makes room for as many. ok is false where
// they are no such bitmap's. The layout is github.com/RoaringBitmap/RoaringFormatSpec.
func RoaringContainers(b []byte) (n int, ok bool) {
	const withRuns, withoutRuns = 12347, 12346
	if len(b) < 8 {
		return 0, false
	}
	cookie := binary.LittleEndian.Uint32(b)
	if cookie&0xffff == withRuns {
		return int(cookie>>16) + 1, true
	}
	return int(binary.LittleEndian.Uint32(b[4:])), cookie == withoutRuns
}
