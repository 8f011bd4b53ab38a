package gateway

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/bits"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
	"unsafe"

	"kith/proto"
)

// depthMax is how deep values that a route skips may nest.
const depthMax = 64

// scanner reads strict JSON (RFC 8259) in one pass, without an object per
// value. Strings without escapes alias the body; the others lie in text until
// reset. After the first syntax error every read reports false and err is
// set. Field names are compared exactly, unlike in encoding/json.
type scanner struct {
	b    []byte
	i    int
	text []byte
	err  *proto.Error
	// odd: some string since it was last cleared held a control character,
	// half a surrogate pair or invalid UTF-8: legal JSON at most, never text.
	odd bool
	// half: some string since reset held half a surrogate pair.
	half bool
	// escaped: some string since it was last cleared held an escape.
	escaped bool
	// elements are those of arrays that were skipped since reset, but for the first of
	// each.
	elements int
}

func (s *scanner) reset(b []byte) {
	*s = scanner{b: b, text: s.text[:0]}
}

// fail notes what is wrong at i, with line and column.
func (s *scanner) fail(what string) bool {
	if s.err == nil {
		at := min(s.i, len(s.b))
		before := s.b[:at]
		s.err = proto.Errorf(proto.CodeJSON, "the body is not valid JSON at byte %d: %s", at, what)
		s.err.Line = bytes.Count(before, []byte{'\n'}) + 1
		s.err.Column = at - bytes.LastIndexByte(before, '\n')
	}
	s.i = len(s.b)
	return false
}

// peek skips white space and gives the next byte, 0 at the end.
func (s *scanner) peek() byte {
	for s.i < len(s.b) {
		c := s.b[s.i]
		if c > ' ' {
			return c
		}
		if c != ' ' && c != '\n' && c != '\r' && c != '\t' {
			return c
		}
		s.i++
	}
	return 0
}

// open takes the bracket c, which must be next.
func (s *scanner) open(c byte) bool {
	if s.peek() != c {
		if c == '{' {
			return s.fail("an object must be here")
		}
		return s.fail("an array must be here")
	}
	s.i++
	return true
}

// more reports whether another member comes before the bracket end, which it
// takes. first must be true for the first call.
func (s *scanner) more(first *bool, end byte) bool {
	c := s.peek()
	switch {
	case c == end:
		s.i++
		return false
	case *first:
		*first = false
	case c != ',':
		return s.fail("a comma or " + string(rune(end)) + " must be here")
	default:
		s.i++
		if s.peek() == end {
			return s.fail("a comma must not come last")
		}
	}
	return true
}

// key reads a member's name and its colon.
func (s *scanner) key() (string, bool) {
	if s.peek() != '"' {
		return "", s.fail("a name in quotes must be here")
	}
	k, ok := s.str()
	if !ok {
		return "", false
	}
	if s.peek() != ':' {
		return "", s.fail("a colon must be here")
	}
	s.i++
	return k, true
}

// end reports whether nothing but white space is left.
func (s *scanner) end() bool {
	if s.err != nil {
		return false
	}
	s.peek()
	if s.i < len(s.b) {
		return s.fail("something follows the value")
	}
	return true
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// special marks, lowest first, the bytes of w that end the quick scan of a
// string: quote, backslash, control characters, DEL and all above ASCII. Marks
// above the lowest may be wrong.
func special(w uint64) uint64 {
	quote, slash, del := w^(ones*'"'), w^(ones*'\\'), w^(ones*0x7f)
	m := (w - ones*0x20) &^ w
	m |= (quote - ones) &^ quote
	m |= (slash - ones) &^ slash
	m |= (del - ones) &^ del
	return (m | w) & highs
}

// str reads a string; its opening quote is at i.
func (s *scanner) str() (string, bool) {
	start := s.i + 1
	i := start
	for {
		for i+8 <= len(s.b) {
			if m := special(binary.LittleEndian.Uint64(s.b[i:])); m != 0 {
				i += bits.TrailingZeros64(m) >> 3
				break
			}
			i += 8
		}
		if i >= len(s.b) {
			s.i = i
			return "", s.fail("a string has no closing quote")
		}
		switch c := s.b[i]; {
		case c == '"':
			s.i = i + 1
			return alias(s.b[start:i]), true
		case c == '\\' || c >= utf8.RuneSelf || c == 0x7f:
			return s.strSlow(start, i)
		case c < ' ':
			s.i = i
			return "", s.fail("a control character in a string must be escaped")
		}
		i++
	}
}

// strSlow goes on at i with a string that needs more than the quick scan.
func (s *scanner) strSlow(start, i int) (string, bool) {
	mark, from, high := len(s.text), start, false
	for ; i < len(s.b); i++ {
		c := s.b[i]
		switch {
		case c == '"':
			s.i = i + 1
			if high && !utf8.Valid(s.b[start:i]) {
				s.odd = true
			}
			if from == start {
				return alias(s.b[start:i]), true
			}
			s.text = append(s.text, s.b[from:i]...)
			return alias(s.text[mark:]), true
		case c == '\\':
			s.text = append(s.text, s.b[from:i]...)
			s.i = i
			if !s.escape() {
				return "", false
			}
			i, from = s.i-1, s.i
		case c < ' ':
			s.i = i
			return "", s.fail("a control character in a string must be escaped")
		case c == 0x7f:
			s.odd = true
		case c >= utf8.RuneSelf:
			high = true
			s.odd = s.odd || c == 0xc2 && i+1 < len(s.b) && s.b[i+1] < 0xa0 // U+0080 to U+009F are controls
		}
	}
	s.i = i
	return "", s.fail("a string has no closing quote")
}

// escape decodes the escape at i into text.
func (s *scanner) escape() bool {
	s.escaped = true
	if s.i+1 >= len(s.b) {
		return s.fail("a string has no closing quote")
	}
	c := s.b[s.i+1]
	switch c {
	case '"', '\\', '/':
	case 'b', 'f', 'n', 'r', 't':
		s.odd = true
		c = "\b\f\n\r\t"[strings.IndexByte("bfnrt", c)]
	case 'u':
		return s.unicode()
	default:
		return s.fail("an escape is unknown")
	}
	s.text = append(s.text, c)
	s.i += 2
	return true
}

// unicode decodes \uXXXX at i, with its second half if it is a surrogate.
func (s *scanner) unicode() bool {
	r := s.hex4(s.i)
	if r < 0 {
		return s.fail(`\u must be followed by four hexadecimal digits`)
	}
	s.i += 6
	if utf16.IsSurrogate(r) {
		r = utf16.DecodeRune(r, s.hex4(s.i))
		if r == utf8.RuneError { // half a pair stays what is no text, or it would be another's name
			s.odd, s.half, s.text = true, true, append(s.text, 0xff)
			return true
		}
		s.i += 6
	}
	if r < ' ' || r >= 0x7f && r < 0xa0 {
		s.odd = true
	}
	s.text = utf8.AppendRune(s.text, r)
	return true
}

// hex4 is the value of \uXXXX at i, -1 if that is not there.
func (s *scanner) hex4(i int) rune {
	if i+6 > len(s.b) || s.b[i] != '\\' || s.b[i+1] != 'u' {
		return -1
	}
	var r rune
	for _, c := range s.b[i+2 : i+6] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return -1
		}
		r = r<<4 | rune(c)
	}
	return r
}

// literal takes word, which must be next.
func (s *scanner) literal(word string) bool {
	if len(s.b)-s.i < len(word) || string(s.b[s.i:s.i+len(word)]) != word {
		return s.fail("a value must be here")
	}
	s.i += len(word)
	return true
}

// number reads a number. It is infinite if it does not fit.
func (s *scanner) number() (float64, bool) {
	start := s.i
	b, i := s.b, s.i
	neg := i < len(b) && b[i] == '-'
	if neg {
		i++
	}
	var mant uint64
	digits := i
	for ; i < len(b) && b[i]-'0' <= 9; i++ {
		mant = mant*10 + uint64(b[i]-'0')
	}
	n := i - digits
	if n == 0 || n > 1 && b[digits] == '0' {
		s.i = digits
		return 0, s.fail("a value must be here; numbers have no leading zero, NaN and Infinity are not JSON")
	}
	frac := 0
	if i < len(b) && b[i] == '.' {
		i++
		for from := i; i < len(b) && b[i]-'0' <= 9; i++ {
			mant = mant*10 + uint64(b[i]-'0')
			frac = i + 1 - from
		}
		if frac == 0 {
			s.i = i
			return 0, s.fail("a digit must follow the decimal point")
		}
	}
	exp := i < len(b) && b[i]|0x20 == 'e'
	if exp {
		if i = exponent(b, i+1); i < 0 {
			return 0, s.fail("a digit must follow the exponent")
		}
	}
	s.i = i
	if exp || n+frac > 15 {
		f, err := strconv.ParseFloat(alias(b[start:i]), 64)
		if err != nil {
			f = math.Inf(1)
		}
		return f, true
	}
	// Below 2^53 both operands are exact, so the quotient is rounded once.
	f := float64(mant)
	if frac > 0 {
		f /= pow10[frac]
	}
	if neg {
		f = -f
	}
	return f, true
}

var pow10 = [...]float64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15}

// exponent gives the end of the exponent's digits at i, -1 if there are none.
func exponent(b []byte, i int) int {
	if i < len(b) && (b[i] == '+' || b[i] == '-') {
		i++
	}
	from := i
	for i < len(b) && b[i]-'0' <= 9 {
		i++
	}
	if i == from {
		return -1
	}
	return i
}

// scalar skips one value that is neither object nor array.
func (s *scanner) scalar(c byte) bool {
	var ok bool
	switch c {
	case '"':
		_, ok = s.str()
	case 't':
		ok = s.literal("true")
	case 'f':
		ok = s.literal("false")
	case 'n':
		ok = s.literal("null")
	default:
		_, ok = s.number()
	}
	return ok
}

// skip reads over any value. It nests in a word's bits, not on the stack.
func (s *scanner) skip() bool {
	var objects uint64 // bit 0: the innermost is an object
	depth := 0
	for {
		c := s.peek()
		if c == '{' || c == '[' {
			if depth == depthMax {
				return s.fail("values nest more than " + strconv.Itoa(depthMax) + " deep")
			}
			s.i++
			depth++
			objects <<= 1
			end := byte(']')
			if c == '{' {
				objects, end = objects|1, '}'
			}
			if s.peek() != end {
				if c == '{' {
					if _, ok := s.key(); !ok {
						return false
					}
				}
				continue
			}
		} else if !s.scalar(c) {
			return false
		}
		again, ok := s.close(&objects, &depth)
		if !ok || !again {
			return ok
		}
	}
}

// close takes what follows a value within skip: brackets that end, then a
// comma and perhaps a key, after which there is one more value (again).
func (s *scanner) close(objects *uint64, depth *int) (again, ok bool) {
	for *depth > 0 {
		first, end := false, byte(']')
		if *objects&1 == 1 {
			end = '}'
		}
		if s.more(&first, end) {
			if end == '}' {
				_, ok = s.key()
				return ok, ok
			}
			s.elements++
			return true, true
		}
		if s.err != nil {
			return false, false
		}
		*objects >>= 1
		*depth--
	}
	return false, true
}

// alias views b as a string, valid as long as b is not written.
func alias(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
